"""The critic of a VQGAN's training: its discriminator and perceptual loss, needed only for export.

All published VQGANs have these tensors (`loss.perceptual_loss.*`, `loss.discriminator.*`). A `dalle.pt`
holds them as `vae.model.loss.*`, and dalle-pytorch's own programs require them. Our codec leaves them out,
so they are read from the codec's checkpoint, or kept from the `dalle.pt` that a run started from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from pipeline.core.errors import ModelError
from pipeline.models.checkpoints.foreign import DallePytorchCodec
from pipeline.models.codecs.vqgan import VQGAN
from pipeline.models.codecs.vqgan_files import read_vqgan_weights

_MODEL = "model."  # the VQGAN within the `VQGanVAE`
_NETWORK = re.compile(
    r"model\.(encoder|decoder|quant_conv|post_quant_conv)\."
    r"|model\.quantize\.(embedding\.weight|embed\.weight|proj\.(weight|bias))$"
)
_AVERAGES = "model_ema."  # from latent diffusion; dalle-pytorch's class doesn't have them


def critic_in(carried: DallePytorchCodec) -> dict[str, Tensor]:
    """The critic's tensors in a `dalle.pt`'s codec, under the names of dalle-pytorch's `VQGanVAE`."""
    return {
        name: tensor.contiguous().clone()
        for name, tensor in carried.weights.items()
        if name.startswith(_MODEL) and not _NETWORK.match(name)
    }


def critic_of(checkpoint: Path, codec: VQGAN) -> dict[str, Tensor]:
    """The critic's tensors in a VQGAN's checkpoint, under the names of dalle-pytorch's `VQGanVAE`.

    Raises ModelError for a file that can't be read or is another codec's checkpoint.
    """
    found = read_vqgan_weights(checkpoint)
    for name, tensor in codec.state_dict().items():
        if name not in found or not torch.equal(found[name].float(), tensor):
            raise ModelError(
                f"{checkpoint} is not the checkpoint of the codec that the model was trained with: its "
                f"tensor {name} differs. Give the .ckpt that the codec was made from."
            )
    network = codec.state_dict().keys()
    return {
        f"{_MODEL}{name}": tensor
        for name, tensor in found.items()
        if name not in network and not name.startswith(_AVERAGES)
    }


def with_critic(codec: VQGAN, critic: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All tensors of a `VQGanVAE`: the codec's and the critic's."""
    network = {f"{_MODEL}{name}": tensor for name, tensor in codec.state_dict().items()}
    return {**critic, **network}

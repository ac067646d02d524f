"""What dalle-pytorch's `VQGanVAE` holds beside the network of a VQGAN: the critics of its training. Layer 3.

All published VQGANs have them (`loss.perceptual_loss.*`, `loss.discriminator.*`), a `dalle.pt` carries them
as `vae.model.loss.*`, and stock programs load it strictly. Our codec leaves them out, so they are taken from
the codec's checkpoint, or kept from the `dalle.pt` that a training began with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from pipeline.core.errors import ModelError
from pipeline.models.checkpoints.foreign import StockCodec
from pipeline.models.codecs.vqgan import VQGAN
from pipeline.models.codecs.vqgan_files import read_vqgan_weights

_MODEL = "model."  # the VQGAN within the `VQGanVAE`
_NETWORK = re.compile(
    r"model\.(encoder|decoder|quant_conv|post_quant_conv)\."
    r"|model\.quantize\.(embedding\.weight|embed\.weight|proj\.(weight|bias))$"
)
_AVERAGES = "model_ema."  # of latent diffusion, which dalle-pytorch's class doesn't have


def critic_in(carried: StockCodec) -> dict[str, Tensor]:
    """The tensors of a `dalle.pt`'s codec that are not its network's, under the names of a `VQGanVAE`."""
    return {
        name: tensor.contiguous().clone()
        for name, tensor in carried.weights.items()
        if name.startswith(_MODEL) and not _NETWORK.match(name)
    }


def critic_of(checkpoint: Path, codec: VQGAN) -> dict[str, Tensor]:
    """The tensors of a VQGAN's checkpoint that are not its network's, under the names of a `VQGanVAE`.

    Raises ModelError for a file that can't be read, or that is the checkpoint of another codec.
    """
    found = read_vqgan_weights(checkpoint)
    for name, tensor in codec.state_dict().items():
        if name not in found or not torch.equal(found[name].float(), tensor):
            raise ModelError(
                f"{checkpoint} is not the checkpoint of the codec that the model was trained with: its "
                f"tensor {name} is another one. Give the .ckpt that the codec was made from."
            )
    network = codec.state_dict().keys()
    return {
        f"{_MODEL}{name}": tensor
        for name, tensor in found.items()
        if name not in network and not name.startswith(_AVERAGES)
    }


def with_critic(codec: VQGAN, critic: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All tensors of a `VQGanVAE`."""
    network = {f"{_MODEL}{name}": tensor for name, tensor in codec.state_dict().items()}
    return {**critic, **network}

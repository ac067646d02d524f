"""Read the two files of a published VQGAN: a YAML of its architecture, a checkpoint of its weights.

Layer 3. Format: taming-transformers' configs/*.yaml (`model: {target, params}`), and the checkpoint of
PyTorch Lightning, whose `state_dict` holds the codec and, under `loss.`, the critics of its training.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.core.errors import ModelError
from pipeline.models.codecs.base import LARGEST_IMAGE, MOST_TOKENS
from pipeline.models.codecs.vqgan import VQGAN, VQGANConfig
from pipeline.models.description import Description
from pipeline.models.torch_files import read_torch_file
from pipeline.models.weights import fill, tensors_in, without_prefix
from pipeline.models.yaml_files import read_yaml

# Whether codes are the greatest logits, by the last word of `target`. The others have one network and
# one way to codes; what differs is how they were trained, or what latent diffusion asks of them.
_GUMBEL = {
    "VQModel": False,
    "VQModelInterface": False,
    "VQNoDiscModel": False,
    "EMAVQ": False,
    "GumbelVQ": True,
}
# What the network is built without; each changes what it gives.
_ONLY = {
    "double_z": False,
    "give_pre_end": False,
    "tanh_out": False,
    "in_channels": 3,
    "out_ch": 3,
}
_WIDEST = 1 << 14  # channels
_ADVICE = "Give the YAML that was published with the checkpoint."
_ANCHOR = "encoder.conv_in.weight"


def load_vqgan(
    config_path: Path,
    checkpoint_path: Path,
    *,
    image_size: int | None = None,
    device: torch.device | str = "cpu",
) -> VQGAN:
    """The codec of a published pair of files, ready to encode and decode on `device`.

    `image_size`: pixels of a side; by default the `resolution` that it was trained with. Raises
    ModelError for files that can't be read, do not fit each other, or want to run code.
    """
    config = read_vqgan_config(config_path, image_size=image_size)
    codec = fill(
        lambda: VQGAN(config),
        read_vqgan_weights(checkpoint_path),
        source=checkpoint_path,
        complaint=f"{checkpoint_path} does not fit {config_path}",
        extras="ignore",
    )
    return codec.requires_grad_(False).eval().to(device)


def read_vqgan_config(path: Path, *, image_size: int | None = None) -> VQGANConfig:
    """The architecture that a YAML describes.

    `dropout` and unknown keys of `ddconfig` play no part, as in the reference. Raises ModelError for
    another kind of model, and keys that are missing or of another type.
    """
    model = Description.of(read_yaml(path), path, "", _ADVICE).table("model")
    target = str(model.values.get("target")).rpartition(".")[2]
    if target not in _GUMBEL:
        raise model.wrong("target", model.values.get("target"), f"one of {', '.join(_GUMBEL)}")
    params = model.table("params")
    network = params.table("ddconfig")
    params.expect("remap", None)
    for key, only in _ONLY.items():
        network.expect(key, only)
    resolution = network.integer("resolution", high=LARGEST_IMAGE)
    return VQGANConfig(
        gumbel=_GUMBEL[target],
        num_tokens=params.integer("n_embed", high=MOST_TOKENS),
        code_dim=params.integer("embed_dim", high=_WIDEST),
        channels=network.integer("ch", high=_WIDEST),
        multipliers=network.integers("ch_mult", high=_WIDEST),
        blocks=network.integer("num_res_blocks", high=64),
        attention_sizes=network.integers("attn_resolutions", empty=True),
        training_size=resolution,
        latents=network.integer("z_channels", high=_WIDEST),
        convolve=network.flag("resamp_with_conv", True),
        image_size=image_size or resolution,
    )


def read_vqgan_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint of PyTorch Lightning, those of its critics among them.

    Raises ModelError for a file that can't be read or has none.
    """
    checkpoint: Any = read_torch_file(path)
    state = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, Mapping) else None
    tensors = without_prefix(tensors_in(state, str(path)), _ANCHOR, str(path))
    if _ANCHOR not in tensors:
        raise ModelError(
            f"{path} holds no `state_dict` of a VQGAN: it has no {_ANCHOR}. Expected the .ckpt of PyTorch "
            "Lightning that belongs to the YAML."
        )
    return tensors

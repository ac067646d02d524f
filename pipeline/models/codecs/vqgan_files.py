"""Read the two files of a published VQGAN: its architecture as YAML, and its checkpoint.

Format: taming-transformers' configs/*.yaml (`model: {target, params}`), and a PyTorch Lightning checkpoint
whose `state_dict` holds the codec and, under `loss.`, the critic of its training.
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
from pipeline.models.weights import fill, strip_prefix, tensors_in
from pipeline.models.yaml_files import read_yaml

# Whether the codebook is a Gumbel one, by the last part of `target`. All others share one network and one
# codebook; they differ only in training or in their use by latent diffusion.
_GUMBEL = {
    "VQModel": False,
    "VQModelInterface": False,
    "VQNoDiscModel": False,
    "EMAVQ": False,
    "GumbelVQ": True,
}
# Features that are not implemented; each would change the output.
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
    """The codec of a published pair of files, in eval mode on `device`.

    `image_size`: side in pixels (default: the `resolution` it was trained with). Raises ModelError for
    files that can't be read, do not match each other, or contain code.
    """
    config = read_vqgan_config(config_path, image_size=image_size)
    codec = fill(
        lambda: VQGAN(config),
        read_vqgan_weights(checkpoint_path),
        source=checkpoint_path,
        complaint=f"{checkpoint_path} does not match {config_path}",
        extras="ignore",
    )
    return codec.requires_grad_(False).eval().to(device)


def read_vqgan_config(path: Path, *, image_size: int | None = None) -> VQGANConfig:
    """The architecture in a YAML file.

    `dropout` and unknown keys of `ddconfig` are ignored, as in the reference. Raises ModelError for another
    kind of model, and for keys that are missing or have the wrong type.
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
    """The tensors of a PyTorch Lightning checkpoint, including the critic's.

    Raises ModelError for a file that can't be read or is not a VQGAN's.
    """
    checkpoint: Any = read_torch_file(path)
    state = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, Mapping) else None
    tensors = strip_prefix(tensors_in(state, str(path)), _ANCHOR, str(path))
    if _ANCHOR not in tensors:
        raise ModelError(
            f"{path} has no `state_dict` of a VQGAN: {_ANCHOR} is missing. Expected the PyTorch Lightning "
            ".ckpt that belongs to the YAML."
        )
    return tensors

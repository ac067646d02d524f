"""Read the two files of a published VQGAN: a YAML of its architecture, a checkpoint of its weights.

Floor 3. Format: taming-transformers' configs/*.yaml (`model: {target, params}`), and the checkpoint of
PyTorch Lightning, whose `state_dict` holds the codec and, under `loss.`, the critics of its training.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from pipeline.errors import ModelError
from pipeline.models.codecs.torch_files import read_torch_file
from pipeline.models.codecs.vqgan import VQGAN, VQGANConfig
from pipeline.models.codecs.weights import load_weights

_GUMBEL = {"VQModel": False, "GumbelVQ": True}  # by the last word of `target`
# What Lightning keeps beside the weights: callbacks by their class, hyper-parameters, scores.
_SKIPPED = (
    "pytorch_lightning.",
    "lightning.",
    "lightning_fabric.",
    "omegaconf.",
    "taming.",
    "main.",
    "typing.Any",
    "builtins.dict",
    "builtins.list",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
)
_NOT_OURS = ("loss.",)


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
    codec = VQGAN(read_vqgan_config(config_path, image_size=image_size))
    weights = _read_weights(checkpoint_path)
    load_weights(codec, weights, f"{checkpoint_path} does not fit {config_path}")
    return codec.requires_grad_(False).eval().to(device)


def read_vqgan_config(path: Path, *, image_size: int | None = None) -> VQGANConfig:
    """The architecture that a YAML describes.

    `dropout` and unknown keys of `ddconfig` play no part, as in the reference. Raises ModelError for
    another kind of model, and keys that are missing or of another type.
    """
    model = _Table(_read_yaml(path), path).table("model")
    target = str(model.values.get("target")).rpartition(".")[2]
    if target not in _GUMBEL:
        raise ModelError(
            f"{path} describes a {model.values.get('target')!r}, expected a {' or '.join(_GUMBEL)}. "
            "Give the YAML of the image codec."
        )
    params = model.table("params")
    network = params.table("ddconfig")
    params.expect("remap", None)
    network.expect("double_z", False)
    network.expect("give_pre_end", False)
    network.expect("in_channels", 3)
    network.expect("out_ch", 3)
    resolution = network.integer("resolution")
    return VQGANConfig(
        gumbel=_GUMBEL[target],
        num_tokens=params.integer("n_embed"),
        code_dim=params.integer("embed_dim"),
        channels=network.integer("ch"),
        multipliers=network.integers("ch_mult"),
        blocks=network.integer("num_res_blocks"),
        attention_sizes=network.integers("attn_resolutions", empty=True),
        training_size=resolution,
        latents=network.integer("z_channels"),
        convolve=bool(network.values.get("resamp_with_conv", True)),
        image_size=image_size or resolution,
    )


class _Table:
    """A mapping of the YAML that knows its place, for messages."""

    def __init__(self, values: object, path: Path, place: str = "") -> None:
        if not isinstance(values, Mapping):
            raise ModelError(
                f"{path} has no table {place or 'at its top'}; expected a VQGAN's YAML."
            )
        self.values, self.path, self.place = values, path, place

    def table(self, key: str) -> _Table:
        """The table under `key`."""
        return _Table(self.values.get(key), self.path, f"{self.place}.{key}".lstrip("."))

    def integer(self, key: str) -> int:
        """The positive whole number under `key`."""
        return self._positive(key, self.values.get(key))

    def integers(self, key: str, *, empty: bool = False) -> tuple[int, ...]:
        """The list of positive whole numbers under `key`."""
        found = self.values.get(key)
        if not isinstance(found, list) or not (found or empty):
            raise self._wrong(key, found, "a list of whole numbers")
        return tuple(self._positive(key, number) for number in found)

    def expect(self, key: str, only: object) -> None:
        """Refuse anything under `key` but the one value that can be built here, or nothing."""
        found = self.values.get(key, only)
        if found != only:
            raise self._wrong(key, found, repr(only))

    def _positive(self, key: str, found: object) -> int:
        if not isinstance(found, int) or isinstance(found, bool) or found < 1:
            raise self._wrong(key, found, "a whole number from 1")
        return found

    def _wrong(self, key: str, found: object, expected: str) -> ModelError:
        return ModelError(
            f"{self.path} has {self.place}.{key} {found!r}, expected {expected}. Give the YAML that was "
            "published with the checkpoint."
        )


def _read_yaml(path: Path) -> object:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ModelError(f"{path} can't be read as YAML ({error}).") from error


def _read_weights(path: Path) -> dict[str, Tensor]:
    checkpoint: Any = read_torch_file(path, husks=_SKIPPED)
    state = checkpoint.get("state_dict") if isinstance(checkpoint, Mapping) else None
    if not isinstance(state, Mapping):
        raise ModelError(
            f"{path} holds no `state_dict`; expected the .ckpt of PyTorch Lightning that belongs to "
            "the YAML."
        )
    return {
        name: tensor
        for name, tensor in state.items()
        if isinstance(tensor, Tensor) and not name.startswith(_NOT_OURS)
    }

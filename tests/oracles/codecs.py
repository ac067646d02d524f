"""The reference codecs, as their authors published them: taming-transformers, dalle-pytorch, DALL-E.

They are installed without their dependencies (see the Makefile); the few modules that they import and
the codecs don't need are stood in for while they are imported. Tests that want them are skipped where
they are not installed.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor


def taming_vqgan() -> Any:
    """The module `taming.models.vqgan`: `VQModel`, `GumbelVQ`."""
    pytest.importorskip("taming")
    with _stand_ins():
        return importlib.import_module("taming.models.vqgan")


def taming_critic() -> dict[str, Any]:
    """The `lossconfig` of all published VQGANs, whose class can be built here: of random weights.

    Its perceptual loss is a VGG16 that torchvision downloads and LPIPS that taming downloads.
    """
    taming_vqgan()
    with _stand_ins():
        losses = importlib.import_module("taming.modules.losses.lpips")
        importlib.import_module("taming.modules.losses.vqperceptual")
    losses.LPIPS.load_from_pretrained = lambda _self: None
    target = "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator"
    return {"target": target, "params": {"disc_start": 0, "disc_ndf": 8}}


def dalle_pytorch() -> Any:
    """The module `dalle_pytorch`: `VQGanVAE`, `DiscreteVAE`, `OpenAIDiscreteVAE`."""
    pytest.importorskip("taming")
    pytest.importorskip("rotary_embedding_torch")
    pytest.importorskip("axial_positional_embedding")
    taming_vqgan()
    with _stand_ins():
        return importlib.import_module("dalle_pytorch")


def dall_e() -> Any:
    """The module `dall_e`: `Encoder`, `Decoder` of OpenAI's discrete VAE."""
    with _stand_ins():
        pytest.importorskip("dall_e")
        return importlib.import_module("dall_e")


@contextmanager
def without_noise(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take the noise out of `gumbel_softmax`: -log(1) = 0 instead of -log(an exponential)."""
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "exponential_", lambda tensor: tensor.fill_(1))
        yield


def assert_same_codes(ours_BN: Tensor, theirs_BN: Tensor, costs_BNK: Tensor) -> None:
    """Codes are equal but where the costs of the two entries tie within 1e-5; and they are not all one."""
    assert ours_BN.dtype == torch.int64
    assert ours_BN.shape == theirs_BN.shape
    assert len(torch.bincount(theirs_BN.flatten()).nonzero()) >= 8
    gaps_BN = (costs_BNK.gather(2, ours_BN[..., None]) - costs_BNK.gather(2, theirs_BN[..., None]))[
        ..., 0
    ].abs()
    assert gaps_BN[ours_BN != theirs_BN].le(1e-5).all()
    assert (ours_BN == theirs_BN).float().mean() > 0.98


class _Settings(dict[str, Any]):
    """As much of an OmegaConf object as the references use."""

    def __getattr__(self, name: str) -> Any:
        return self[name]

    @classmethod
    def of(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            return cls({key: cls.of(value) for key, value in values.items()})
        return values

    @classmethod
    def load(cls, path: str) -> Any:
        return cls.of(yaml.safe_load(Path(path).read_text(encoding="utf-8")))


def _instantiate(config: Mapping[str, Any]) -> Any:
    module, _, name = config["target"].rpartition(".")
    return getattr(importlib.import_module(module), name)(**config.get("params", {}))


def _vgg16(pretrained: bool) -> Any:
    """The layers of torchvision's VGG16, random and of an eighth of the channels."""
    layers: list[torch.nn.Module] = []
    fan_in = 3
    for count, width in ((2, 8), (2, 16), (3, 32), (3, 64), (3, 64)):
        for _ in range(count):
            layers += [torch.nn.Conv2d(fan_in, width, 3, padding=1), torch.nn.ReLU()]
            fan_in = width
        layers.append(torch.nn.MaxPool2d(2))
    return SimpleNamespace(features=torch.nn.Sequential(*layers))


@contextmanager
def _stand_ins() -> Iterator[None]:
    contents: dict[str, dict[str, Any]] = {
        "omegaconf": {"OmegaConf": _Settings},
        "pkg_resources": {"get_distribution": None},
        "pytorch_lightning": {"LightningModule": torch.nn.Module},
        "requests": {},
        "taming.main": {"instantiate_from_config": _instantiate},
        "torchvision": {"models": SimpleNamespace(vgg16=_vgg16)},
    }
    added = [name for name in contents if name not in sys.modules]
    for name in added:
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(contents[name])
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]

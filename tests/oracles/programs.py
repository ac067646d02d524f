"""What dalle-pytorch's programs do with a `dalle.pt`: generate.py, and services built on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.oracles.codecs import dalle_pytorch


def load_as_generate_py(dalle_path: Path, *, vqgan: tuple[Path, Path] | None = None) -> Any:
    """The `DALLE` of generate.py, `--taming` with the YAML and the checkpoint of a VQGAN."""
    package = dalle_pytorch()
    saved = torch.load(dalle_path)
    if vqgan is not None:
        vae = package.VQGanVAE(str(vqgan[1]), str(vqgan[0]))
    else:
        vae = package.DiscreteVAE(**saved["vae_params"])
    assert vae.__class__.__name__ == saved["vae_class_name"]
    dalle = package.DALLE(vae=vae, **saved["hparams"])
    dalle.load_state_dict(saved["weights"])
    return dalle.eval()


def draw_greedily(dalle: Any, tokens_BT: Tensor) -> Tensor:
    """The images of generate.py's call with a `--top_k` that leaves the best code alone."""
    images: Tensor = dalle.generate_images(tokens_BT, filter_thres=1.0)
    return images


def train_file(dalle: Any, hparams: dict[str, Any], vae_params: dict[str, Any] | None) -> Any:
    """What train_dalle.py saves."""
    return {
        "hparams": hparams,
        "vae_params": vae_params,
        "epoch": 1,
        "version": "1.6.6",
        "vae_class_name": dalle.vae.__class__.__name__,
        "weights": dalle.state_dict(),
    }

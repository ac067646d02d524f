"""`--model dalle-pytorch`: the reference implementation's class in our training loop, if it is installed.

It computes all logits at every position and masks them, as it does in its own loop. Checkpoints store its
tensors under our names, so every other command can use them.

Legend: B samples, T text positions, N codes, L positions, V ids of the joint vocabulary.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.core.errors import DependencyError, ModelError
from pipeline.models.checkpoints.dalle_pytorch import CODEC_PREFIX
from pipeline.models.checkpoints.dalle_pytorch_names import name_pairs, their_shape
from pipeline.models.checkpoints.export import dalle_pytorch_hparams
from pipeline.models.checkpoints.foreign import our_shape
from pipeline.models.checkpoints.native import AVERAGE_FILE, MODEL_FILE, OPTIMIZER_FILE
from pipeline.models.dalle.config import DalleConfig
from pipeline.models.dalle.model import DalleLoss

_PREFIX = "dalle."
Files = Mapping[str, Mapping[str, Tensor]]


class DallePytorchModel(nn.Module):
    """dalle-pytorch's `DALLE` with the call signature of ours; parameter names are those of the class.

    Raises DependencyError if the package can't be imported, ModelError for hyper-parameters that it
    can't train with.
    """

    def __init__(self, config: DalleConfig) -> None:
        super().__init__()
        if "sparse" in config.attn_types:
            raise ModelError(
                "dalle-pytorch's sparse attention fails in every forward pass since 1.4.0. "
                "Use --attn-types full with it, or --model dalle."
            )
        package = _import_package()
        # The class requires a codec. Codes come from the shards, so a tiny, unused one will do.
        codec = package.DiscreteVAE(
            image_size=2,
            num_layers=1,
            num_tokens=config.num_image_tokens,
            codebook_dim=1,
            hidden_dim=1,
        )
        codec.image_size = 2 * config.image_fmap_size  # the constructor accepts only powers of 2
        self.dalle = package.DALLE(vae=codec, **dalle_pytorch_hparams(config))

    def forward(self, tokens_BT: Tensor, codes_BN: Tensor) -> DalleLoss:
        """The class's own loss, split into text and image."""
        stock = self.dalle
        logits_BVL = stock(tokens_BT, codes_BN).transpose(1, 2)
        split, length = stock.num_text_tokens, stock.text_seq_len
        padding_T = torch.arange(length, device=tokens_BT.device) + (split - length)
        text_BT = torch.where(tokens_BT == 0, padding_T, tokens_BT)
        text = F.cross_entropy(logits_BVL[:, :, :length], text_BT)
        image = F.cross_entropy(logits_BVL[:, :, length:], codes_BN + split)
        weight = stock.loss_img_weight
        return DalleLoss(total=(text + weight * image) / (weight + 1), text=text, image=image)

    def named_parameters(self, *args: Any, **options: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """The trainable parameters."""
        for name, parameter in super().named_parameters(*args, **options):
            if parameter.requires_grad:
                yield name.removeprefix(_PREFIX), parameter

    def state_dict(self, *args: Any, **options: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """The model's tensors, without the codec's."""
        tensors = super().state_dict(*args, **options)
        named = {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}
        return {n: tensor for n, tensor in named.items() if not n.startswith(CODEC_PREFIX)}


def files_under_our_names(files: Files, config: DalleConfig) -> dict[str, dict[str, Tensor]]:
    """Rename the tensors in a checkpoint's files from dalle-pytorch's names to ours."""
    renamed = {name: dict(tensors) for name, tensors in files.items()}
    for file in (MODEL_FILE, AVERAGE_FILE, OPTIMIZER_FILE):
        if file not in files:
            continue
        renamed[file] = {}
        for stock, ours in name_pairs(config):
            for suffix, tensor in _of_parameter(files[file], stock):
                value = our_shape(ours, tensor, config) if tensor.ndim else tensor
                renamed[file].setdefault(f"{ours}{suffix}", value)
    return renamed


def tensors_under_their_names(
    tensors: Mapping[str, Tensor], config: DalleConfig
) -> dict[str, Tensor]:
    """The inverse of `files_under_our_names`, for one file."""
    return {
        f"{stock}{suffix}": tensor.reshape(their_shape(stock, tensor.shape))
        if tensor.ndim
        else tensor
        for stock, ours in name_pairs(config)
        for suffix, tensor in _of_parameter(tensors, ours)
    }


def _of_parameter(tensors: Mapping[str, Tensor], name: str) -> Iterator[tuple[str, Tensor]]:
    """A parameter's tensor and optimizer states, with the suffix of each name."""
    for suffix in ("", "/exp_avg", "/exp_avg_sq", "/step"):
        if f"{name}{suffix}" in tensors:
            yield suffix, tensors[f"{name}{suffix}"]


def _import_package() -> Any:
    try:
        return importlib.import_module("dalle_pytorch")
    except ImportError as error:
        raise DependencyError(
            f"--model dalle-pytorch needs that package, which can't be imported here ({error}). "
            "Install dalle-pytorch 1.6.6 with its dependencies, or use --model dalle."
        ) from error

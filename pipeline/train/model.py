"""The model to train: its hyper-parameters, from options and shards, and its class.

`--model dalle-pytorch` trains the reference implementation's class, if it is installed. It computes all
logits at every position and masks them, as it does in its own loop. Checkpoints store its tensors under our
names, so every other command can use them.

Legend: B samples, T text positions, N codes, L positions, V ids of the joint vocabulary.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.core.errors import ConfigError, ContractError, DependencyError, ModelError
from pipeline.models.checkpoints.dalle_pytorch import CODEC_PREFIX
from pipeline.models.checkpoints.dalle_pytorch_names import name_pairs, their_shape
from pipeline.models.checkpoints.export import dalle_pytorch_hparams
from pipeline.models.checkpoints.foreign import our_shape
from pipeline.models.checkpoints.native import (
    AVERAGE_FILE,
    MODEL_FILE,
    OPTIMIZER_FILE,
)
from pipeline.models.dalle.config import NAMES, DalleConfig
from pipeline.models.dalle.model import Dalle, DalleLoss
from pipeline.models.devices import is_out_of_memory
from pipeline.train.compiling import compile_model
from pipeline.train.config import ModelOptions, TrainConfig, split_words
from pipeline.train.distributed import Ranks
from pipeline.webdata.index import ShardIndex


def new_model(index: ShardIndex, options: ModelOptions) -> DalleConfig:
    """Hyper-parameters of a new model for these shards.

    Raises ModelError if the code grid is not square or the options don't make a valid model, ConfigError
    for a vocabulary or text length that doesn't match the shards.
    """
    rows, columns = index.grid
    if rows != columns:
        raise ModelError(
            f"The shards hold {rows}×{columns} codes per image, but the model needs a square grid. "
            "Encode with a codec for square images."
        )
    if options.text_seq_len not in (None, index.text_seq_len):
        raise ConfigError(
            f"--text-seq-len {options.text_seq_len}: the shards hold {index.text_seq_len} token ids per "
            "caption. Leave it out, or run `pipeline shard` with that length."
        )
    vocabulary = options.num_text_tokens or index.vocab_size
    if vocabulary < index.vocab_size:
        raise ConfigError(
            f"--num-text-tokens {vocabulary}: the shards' tokenizer has {index.vocab_size} ids. "
            f"Give {index.vocab_size} or more."
        )
    given = {name: value for name, value in vars(options).items() if name in NAMES}
    return DalleConfig.from_dict(
        given
        | {
            "text_seq_len": index.text_seq_len,
            "num_text_tokens": vocabulary,
            "num_image_tokens": index.codebook_size,
            "image_fmap_size": rows,
            "attn_types": split_words(options.attn_types),
            "shared_attn_ids": _layer_ids(options.shared_attn_ids),
            "shared_ff_ids": _layer_ids(options.shared_ff_ids),
        }
    )


def check_fit(
    model: DalleConfig, index: ShardIndex, *, codec: str = "", tokenizer: str = "", source: str
) -> None:
    """Raise ContractError if the model of checkpoint `source` can't be trained further on these shards.

    `codec` and `tokenizer` are the fingerprints that it was trained with; "" if unknown.
    """
    rows, columns = index.grid
    facts: tuple[tuple[str, object, object], ...] = (
        ("token ids per caption", model.text_seq_len, index.text_seq_len),
        ("codes in the codebook", model.num_image_tokens, index.codebook_size),
        ("codes per image", model.image_seq_len, rows * columns),
        ("the codec", codec[:12], index.codec.fingerprint[:12] if codec else ""),
        ("the tokenizer", tokenizer[:12], index.tokenizer.fingerprint[:12] if tokenizer else ""),
    )
    for what, expected, found in facts:
        if expected != found:
            raise ContractError(
                f"{source} was trained with {what}: {expected}, but the shards {index.name!r} have {found}. "
                "Shard with the checkpoint's own tokenizer, codec and text length."
            )
    if model.num_text_tokens < index.vocab_size:
        raise ContractError(
            f"{source} has {model.num_text_tokens} text ids, but the shards' tokenizer has "
            f"{index.vocab_size}. Shard with the checkpoint's own tokenizer."
        )


def _layer_ids(text: str | None) -> tuple[int | str, ...] | None:
    if text is None:
        return None
    return tuple(int(word) if word.isdigit() else word for word in split_words([text]))


def make_model(hyperparameters: DalleConfig, config: TrainConfig, ranks: Ranks) -> nn.Module:
    """A new model on its device: the same weights on every rank, different random numbers afterwards."""
    kind = DallePytorchModel if config.model.kind == "dalle-pytorch" else Dalle
    try:
        model = kind(hyperparameters).to(ranks.device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(
            f"Not enough memory for a model with these hyper-parameters ({error}). Use a smaller one."
        ) from error
    pays = ranks.device.type == "cuda" and ranks.kind != "deepspeed"
    wanted = config.parallel.compile
    if wanted in ("on", "graphs") or (wanted == "auto" and pays):
        compile_model(model, ranks.kind)
    if ranks.rank:
        torch.manual_seed(config.seed + (ranks.rank << 32))
    return model


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
        dalle = self.dalle
        logits_BVL = dalle(tokens_BT, codes_BN).transpose(1, 2)
        split, length = dalle.num_text_tokens, dalle.text_seq_len
        padding_T = torch.arange(length, device=tokens_BT.device) + (split - length)
        text_BT = torch.where(tokens_BT == 0, padding_T, tokens_BT)
        text = F.cross_entropy(logits_BVL[:, :, :length], text_BT)
        image = F.cross_entropy(logits_BVL[:, :, length:], codes_BN + split)
        weight = dalle.loss_img_weight
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
        for theirs, ours in name_pairs(config):
            for suffix, tensor in _of_parameter(files[file], theirs):
                value = our_shape(ours, tensor, config) if tensor.ndim else tensor
                renamed[file].setdefault(f"{ours}{suffix}", value)
    return renamed


def tensors_under_their_names(
    tensors: Mapping[str, Tensor], config: DalleConfig
) -> dict[str, Tensor]:
    """The inverse of `files_under_our_names`, for one file."""
    return {
        f"{theirs}{suffix}": tensor.reshape(their_shape(theirs, tensor.shape))
        if tensor.ndim
        else tensor
        for theirs, ours in name_pairs(config)
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

"""Drawing with a model of DALLE-pytorch, which names neither its tokenizer nor, mostly, its codec."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from pipeline.core.errors import ConfigError, ModelError
from pipeline.core.storage import sha256_bytes, sha256_file
from pipeline.core.workspace import Workspace
from pipeline.generate.config import GenerateConfig
from pipeline.models.checkpoints.dalle_pytorch import ADVICE
from pipeline.models.checkpoints.foreign import StockCodec, read_foreign
from pipeline.models.checkpoints.native import fill_dalle
from pipeline.models.codecs.base import Codec
from pipeline.models.codecs.discrete_vae import build_discrete_vae
from pipeline.models.codecs.dvae import OpenAIDVAE
from pipeline.models.codecs.families import LOADERS, read_family_and_files
from pipeline.models.codecs.load import CODEC_JSON, load_codec
from pipeline.models.codecs.published import PUBLISHED_CODECS, fetch_codec
from pipeline.models.codecs.vqgan import VQGAN
from pipeline.models.dalle.config import DalleConfig
from pipeline.models.dalle.model import Dalle
from pipeline.models.description import Description
from pipeline.models.tokenizers.load import TextTokenizer
from pipeline.models.torch_files import check_regular

logger = logging.getLogger(__name__)

LAYOUT_SEED = 0  # as `train --redraw-layout` has it by default; --seed is of the images


@dataclass(frozen=True, kw_only=True)
class ForeignCodec:
    """The codec that was asked for: its name, the hash of its files, and how to load it."""

    name: str
    digest: str
    load: Callable[[], Codec]


def find_foreign_codec(config: GenerateConfig, workspace: Workspace) -> ForeignCodec | None:
    """The codec that the options name, None where they name none.

    One of the workspace, the folder of one, a published one, whose files are fetched once, or the files of
    a VQGAN. Raises ConfigError where there is none of that name or files can't be read, ModelError where it
    can't be fetched.
    """
    if config.vqgan_config is not None and config.vqgan_checkpoint is not None:
        files = (config.vqgan_config, config.vqgan_checkpoint)
        return _codec_of_files("vqgan", files, name=str(config.vqgan_checkpoint))
    name = config.codec
    if name is None:
        return None
    if named := read_family_and_files(name):
        return _codec_of_files(*named, name=name)
    for folder in (workspace.codecs / name, Path(name)):
        if (folder / CODEC_JSON).exists():
            digest = sha256_file(folder / CODEC_JSON)
            return ForeignCodec(name=name, digest=digest, load=partial(load_codec, folder))
    if name in PUBLISHED_CODECS:
        return _codec_of_files(PUBLISHED_CODECS[name].family, fetch_codec(name), name=name)
    raise ConfigError(
        f"No codec {name!r}: neither {workspace.codecs / name} nor a folder of that name holds a "
        f"{CODEC_JSON}. Published are {', '.join(PUBLISHED_CODECS)}; files are given as "
        "KIND:FILE,FILE, such as vqgan:model.yaml,last.ckpt."
    )


def _codec_of_files(family: str, files: Sequence[Path], *, name: str) -> ForeignCodec:
    try:
        for path in files:
            check_regular(path)
        digest = sha256_bytes("".join(map(sha256_file, files)).encode())
    except (ModelError, OSError) as error:
        raise ConfigError(str(error)) from error
    load = partial(LOADERS[family], *files, image_size=None)
    return ForeignCodec(name=name, digest=digest, load=load)


def load_foreign(
    checkpoint: Path,
    codec: ForeignCodec | None,
    tokenizer: TextTokenizer,
    *,
    redraw_layout: bool,
    device: torch.device,
) -> tuple[Dalle, Codec]:
    """The model of a `dalle.pt` or a DeepSpeed folder, and its codec, ready to draw on `device`.

    Raises ModelError for a checkpoint that can't be read, carries no codec where none is given, or does
    not fit the codec or the tokenizer.
    """
    found = read_foreign(checkpoint, redraw_layout=LAYOUT_SEED if redraw_layout else None)
    _check_tokenizer(tokenizer, found.config)
    loaded = codec.load() if codec else _carried_codec(found.codec, checkpoint)
    _fit_size(loaded, found.config)
    _check_codec(loaded, codec.name if codec else f"in {checkpoint}", found.config)
    model = fill_dalle(found.config, found.weights, checkpoint)
    return model.to(device).eval(), loaded.to(device)


def _carried_codec(carried: StockCodec, checkpoint: Path) -> Codec:
    """The codec within a checkpoint: a DiscreteVAE, of whose architecture it tells.

    Of the published ones it has the weights alone.
    """
    if carried.params is None or not carried.weights:
        kind = f"a {carried.class_name}" if carried.class_name else "one that it does not name"
        raise ModelError(
            f"{checkpoint} does not carry its codec whole ({kind}). Give --codec: a name in codecs/, a "
            f"folder, or {', '.join(PUBLISHED_CODECS)}; or --vqgan-config with --vqgan-checkpoint."
        )
    params = Description.of(carried.params, checkpoint, "vae_params", ADVICE)
    return build_discrete_vae(params, carried.weights)


def _fit_size(codec: Codec, config: DalleConfig) -> None:
    """Let the codec have the checkpoint's grid, where its family draws images of any size.

    DALLE-pytorch trains on images of 256 pixels whatever the `resolution` in the VQGAN's YAML is. Its own
    DiscreteVAE, and ours, are made for one size.
    """
    if isinstance(codec, (VQGAN, OpenAIDVAE)):
        codec.at_size(config.image_fmap_size * codec.downsampling)


def _check_tokenizer(tokenizer: TextTokenizer, config: DalleConfig) -> None:
    words = (tokenizer.vocab_size, config.num_text_tokens)
    if words[0] > words[1]:
        raise ModelError(
            f"The tokenizer has {words[0]:,} ids, the checkpoint knows {words[1]:,}: it was trained with "
            "another one. Give that as --tokenizer."
        )
    if words[0] < words[1]:
        logger.warning(
            "The tokenizer has %s ids, the checkpoint knows %s: make sure that it is the one of its "
            "training; others give images of other words.",
            *(f"{count:,}" for count in words),
        )


def _check_codec(codec: Codec, name: str, config: DalleConfig) -> None:
    side = config.image_fmap_size
    if codec.num_tokens == config.num_image_tokens and codec.grid == (side, side):
        return
    raise ModelError(
        f"The codec {name} has {codec.num_tokens:,} codes, {codec.grid[0]} x {codec.grid[1]} an image; "
        f"the checkpoint draws with {config.num_image_tokens:,}, {side} x {side} an image. Give the one "
        "that it was trained with as --codec."
    )

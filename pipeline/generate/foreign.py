"""Load models of DALLE-pytorch, whose checkpoints don't name their tokenizer, and rarely their codec."""

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
from pipeline.models.checkpoints.foreign import DallePytorchCodec, read_foreign
from pipeline.models.checkpoints.native import build_dalle
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

LAYOUT_SEED = 0  # the default seed of `train --redraw-layout`; --seed is for the images


@dataclass(frozen=True, kw_only=True)
class ForeignCodec:
    """The codec named by the options: its name, the hash of its files, and how to load it."""

    name: str
    digest: str
    load: Callable[[], Codec]


def find_foreign_codec(config: GenerateConfig, workspace: Workspace) -> ForeignCodec | None:
    """The codec named by the options, or None.

    It may be one of the workspace, a folder, a published one (downloaded once), or the files of a VQGAN.
    Raises ConfigError if there is none of that name or its files can't be read, ModelError if it can't be
    downloaded.
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
        f"{CODEC_JSON}. Published codecs are {', '.join(PUBLISHED_CODECS)}; files are given as "
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
    """The model of a `dalle.pt` or a DeepSpeed folder and its codec, in eval mode on `device`.

    Raises ModelError for a checkpoint that can't be read, has no codec if none is given, or does not match
    the codec or the tokenizer.
    """
    found = read_foreign(checkpoint, redraw_layout=LAYOUT_SEED if redraw_layout else None)
    _check_tokenizer(tokenizer, found.config)
    loaded = codec.load() if codec else _embedded_codec(found.codec, checkpoint)
    _fit_size(loaded, found.config)
    _check_codec(loaded, codec.name if codec else f"in {checkpoint}", found.config)
    model = build_dalle(found.config, found.weights, checkpoint)
    return model.to(device).eval(), loaded.to(device)


def _embedded_codec(embedded: DallePytorchCodec, checkpoint: Path) -> Codec:
    """The codec in a checkpoint: a DiscreteVAE, whose architecture is recorded.

    For published codecs the file has only the weights.
    """
    if embedded.params is None or not embedded.weights:
        kind = f"a {embedded.class_name}" if embedded.class_name else "of an unknown kind"
        raise ModelError(
            f"{checkpoint} does not contain its complete codec ({kind}). Give --codec: a name in codecs/, a "
            f"folder, or {', '.join(PUBLISHED_CODECS)}; or --vqgan-config with --vqgan-checkpoint."
        )
    params = Description.of(embedded.params, checkpoint, "vae_params", ADVICE)
    return build_discrete_vae(params, embedded.weights)


def _fit_size(codec: Codec, config: DalleConfig) -> None:
    """Set the codec's image size to match the checkpoint's grid, if its family supports any size.

    DALLE-pytorch trains on images of 256 pixels, whatever the `resolution` in the VQGAN's YAML. DiscreteVAE
    and our own codec have a fixed size.
    """
    if isinstance(codec, (VQGAN, OpenAIDVAE)):
        codec.at_size(config.image_fmap_size * codec.downsampling)


def _check_tokenizer(tokenizer: TextTokenizer, config: DalleConfig) -> None:
    words = (tokenizer.vocab_size, config.num_text_tokens)
    if words[0] > words[1]:
        raise ModelError(
            f"The tokenizer has {words[0]:,} ids, but the checkpoint only {words[1]:,}: it was trained with "
            "another one. Give that as --tokenizer."
        )
    if words[0] < words[1]:
        logger.warning(
            "The tokenizer has %s ids, the checkpoint %s: make sure that it is the tokenizer the model was "
            "trained with, or the images will not match the prompts.",
            *(f"{count:,}" for count in words),
        )


def _check_codec(codec: Codec, name: str, config: DalleConfig) -> None:
    side = config.image_fmap_size
    if codec.num_tokens == config.num_image_tokens and codec.grid == (side, side):
        return
    raise ModelError(
        f"The codec {name} has {codec.num_tokens:,} codes and {codec.grid[0]} x {codec.grid[1]} per image; "
        f"the checkpoint has {config.num_image_tokens:,} and {side} x {side} per image. Give the codec "
        "that it was trained with as --codec."
    )

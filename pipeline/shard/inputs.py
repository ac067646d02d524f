"""Find the codes and the tokenizer that `shard` reads, and check them before work begins."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.contracts import SHARD_MEMBERS, CodecFacts, FileEntry, Manifest
from pipeline.core.errors import ConfigError, ContractError
from pipeline.core.integrity import checked_files, read_checked
from pipeline.core.names import is_name
from pipeline.core.ownership import path_inside
from pipeline.core.storage import (
    MANIFEST_NAME,
    input_digest,
    maker_of,
    read_detail,
    read_manifest,
    sha256_bytes,
)
from pipeline.core.suggestions import name_choices
from pipeline.core.workspace import Workspace
from pipeline.models.tokenizers.huggingface import HuggingFaceTokenizer
from pipeline.models.tokenizers.load import (
    TOKENIZER_FILE,
    TextTokenizer,
    is_tokenizer_spec,
    load_tokenizer,
    parse_tokenizer,
)
from pipeline.models.tokenizers.yttm import YttmTokenizer
from pipeline.shard.code_tables import find_views
from pipeline.shard.config import ShardConfig
from pipeline.webdata.index import IMAGE_MEMBER, CodecRef
from pipeline.webdata.npy import Dtype, smallest_dtype

_OWN_TOKENIZER = "bpe"  # the default name of `train-tokenizer`


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The tables of a folder, as listed in its manifest."""

    folder: Path
    entries: tuple[FileEntry, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        """The paths of the tables. Raises ContractError for a path outside the folder."""
        source = self.folder / MANIFEST_NAME
        return tuple(path_inside(self.folder, entry.path, source=source) for entry in self.entries)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The folders and the tokenizer that shards are made from; `digests` as in a manifest."""

    kept: Tables
    codes: Tables
    codec: CodecRef
    codebook_size: int
    grid: tuple[int, int]
    views: tuple[str, ...]
    tokenizer: TextTokenizer
    members: tuple[str, ...]
    digests: Mapping[str, str]

    @property
    def num_codes(self) -> int:
        """The number of codes of one view of an image."""
        return self.grid[0] * self.grid[1]

    @property
    def tokens_dtype(self) -> Dtype:
        """The dtype of token ids in shards."""
        return smallest_dtype(self.tokenizer.vocab_size)

    def check(self) -> None:
        """Raise DamageError for a table that differs from its manifest entry."""
        for tables in (self.kept, self.codes):
            checked_files(tables.folder, tables.entries)

    def lineage(self, facts: Mapping[str, object]) -> str:
        """Hash of codec, tokenizer and `facts`.

        With a resolved config as `facts`, it covers everything besides the samples that decides the bytes
        and the place of each sample.
        """
        everything = [facts, self.codec.fingerprint, self.tokenizer.fingerprint, self.views]
        return sha256_bytes(json.dumps(everything, sort_keys=True).encode())


def find_inputs(config: ShardConfig) -> Inputs:
    """Resolve the codec and the tokenizer of `config`.

    Raises ConfigError if a name matches nothing or is ambiguous, ContractError if an earlier stage has not
    finished, ModelError for a file that is not a tokenizer.
    """
    workspace = Workspace(config.workspace)
    kept = read_manifest(workspace.dedupe, "dedupe")
    codes_folder = _find_codes(workspace, config.codec)
    codes = read_manifest(codes_folder, "codes")
    tokenizer, tokenizer_digest = _find_tokenizer(workspace, chosen_tokenizer(config))
    codec, codebook_size, grid = _describe_codec(codes_folder, codes)
    tables = _tables(codes_folder, codes, "")
    return Inputs(
        kept=_tables(workspace.dedupe, kept, "kept/"),
        codes=tables,
        codec=codec,
        codebook_size=codebook_size,
        grid=grid,
        views=find_views(tables.paths),
        tokenizer=tokenizer,
        members=SHARD_MEMBERS if config.images == "none" else (*SHARD_MEMBERS, IMAGE_MEMBER),
        digests={
            "dedupe": input_digest(workspace.dedupe),
            f"codes/{codes_folder.name}": input_digest(codes_folder),
            **tokenizer_digest,
        },
    )


def _tables(folder: Path, manifest: Manifest, prefix: str) -> Tables:
    entries = (entry for entry in manifest.files if entry.path.startswith(prefix))
    return Tables(folder=folder, entries=tuple(e for e in entries if e.path.endswith(".parquet")))


def _find_codes(workspace: Workspace, codec: str | None) -> Path:
    finished = sorted(path.parent for path in (workspace.root / "codes").glob(f"*/{MANIFEST_NAME}"))
    if codec is None:
        latest = [folder for folder in finished if folder.name == workspace.latest("codes")]
        fitting = latest or finished
    else:
        fitting = [folder for folder in finished if codec in (folder.name, _codec_name(folder))]
    if len(fitting) == 1:
        return fitting[0]
    if not finished:
        maker = maker_of(workspace.root / "codes" / "any", "codes")
        raise ContractError(f"{workspace.root / 'codes'} has no finished codes. Run {maker} first.")
    if not fitting:
        known = {name for folder in finished for name in (folder.name, _codec_name(folder))}
        choices = name_choices(str(codec), known)
        raise ConfigError(f"No set of codes fits the codec {codec!r}. {choices}")
    raise ConfigError(
        f"{len(fitting)} sets of codes fit the codec {codec or '(none given)'}: "
        f"{', '.join(folder.name for folder in fitting)}. Choose one with --codec."
    )


def _codec_name(codes: Path) -> str:
    manifest = read_manifest(codes, "codes")
    return read_detail(codes, manifest, "codec", CodecFacts).name


def _describe_codec(folder: Path, codes: Manifest) -> tuple[CodecRef, int, tuple[int, int]]:
    facts = read_detail(folder, codes, "codec", CodecFacts)
    codec = CodecRef(name=facts.name, fingerprint=facts.fingerprint, image_size=facts.image_size)
    return codec, facts.num_tokens, facts.grid


def chosen_tokenizer(config: ShardConfig) -> str:
    """The value of `--tokenizer`, or else the tokenizer that the workspace trained last."""
    if config.tokenizer is not None:
        return config.tokenizer
    return Workspace(config.workspace).latest("tokenizer") or _OWN_TOKENIZER


def _find_tokenizer(workspace: Workspace, spec: str) -> tuple[TextTokenizer, dict[str, str]]:
    own = workspace.root / "tokenizers" / spec
    foreign = is_tokenizer_spec(spec)
    if not foreign and is_name(spec) and (own / MANIFEST_NAME).exists():
        data = read_checked(own, read_manifest(own, "tokenizer"), TOKENIZER_FILE)
        tokenizer = parse_tokenizer(data, str(own / TOKENIZER_FILE))
        return tokenizer, {f"tokenizers/{spec}": input_digest(own)}
    if not foreign and not Path(spec).exists():
        there = (path.name for path in (workspace.root / "tokenizers").glob("*") if path.is_dir())
        raise ConfigError(
            f"No tokenizer {spec!r}: there is neither a finished {own} nor a file of that name. "
            f"{name_choices(spec, there)} Run {maker_of(own, 'tokenizer')}, or give clip, hf:FILE or "
            "yttm:FILE."
        )
    tokenizer = load_tokenizer(spec)
    return tokenizer, {"tokenizer": tokenizer.fingerprint}


def dalle_pytorch_options(tokenizer: TextTokenizer) -> str:
    """The options with which DALLE-pytorch's scripts use this tokenizer."""
    if isinstance(tokenizer, HuggingFaceTokenizer):
        return f"--hug --bpe_path {TOKENIZER_FILE}"
    return "--bpe_path VOCAB.bpe" if isinstance(tokenizer, YttmTokenizer) else ""

"""A workspace in Python: its tables as pandas, its images and codes, its stages as methods.

    >>> import pipeline
    >>> dataset = pipeline.open("data/try")
    >>> kept = dataset.kept(columns=["key", "caption", "width", "height"])
    >>> dataset.image(kept.key[0]).show()
    >>> dataset.generate(prompts=["a red cube"], name="cubes")

Errors are those of `pipeline.core.errors`: ContractError where a table does not exist yet (its message names
the command that makes it), DamageError where a file is not what its manifest says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.app.run_log import keep_record
from pipeline.app.stages import STAGES
from pipeline.core.config import StageConfig, declared_options, plain_value
from pipeline.core.contracts import KEPT, LEDGER_ITEMS, REJECTED, StageReport
from pipeline.core.errors import ConfigError, ContractError
from pipeline.core.inventory import find_folders
from pipeline.core.option_values import from_plain
from pipeline.core.remembered import recall, remembering
from pipeline.core.suggestions import name_choices
from pipeline.core.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd
    import PIL.Image

    from pipeline.webdata.reader import ShardReader


_COLUMNS = {
    "kept/": tuple(column.name for column in KEPT),
    "rejected/": tuple(column.name for column in REJECTED),
}


def open(path: str | Path, *, source: str | None = None) -> Dataset:  # noqa: A001
    """Open the workspace at `path`; with `source`, make it where nothing is yet.

    Raises WorkspaceError for a folder that holds something else.
    """
    return Dataset(Workspace(Path(path).expanduser()).open(source=source).root)


class Dataset:
    """One workspace. Reading takes no lock, so it works while stages run."""

    def __init__(self, root: Path) -> None:
        self._workspace = Workspace(root)
        self._rows: dict[str, dict[str, Any]] | None = None

    def __repr__(self) -> str:
        return f"pipeline.open({str(self.root)!r})"

    @property
    def root(self) -> Path:
        """The workspace's folder."""
        return self._workspace.root

    # --- Tables ----------------------------------------------------------------------------------

    def ledger(self, *, where: str = "", parameters: Sequence[object] = ()) -> pd.DataFrame:
        """Every URL: `contracts.LEDGER_ITEMS`, sorted by section and key.

        `where` is an SQL condition over these columns: ``ledger(where="state = ?", parameters=["failed"])``.
        """
        import pandas as pd

        from scrapers.crawl.export import read_items

        rows = read_items(self._workspace, where=where, parameters=parameters)
        return pd.DataFrame.from_records(
            list(rows), columns=[column.name for column in LEDGER_ITEMS]
        )

    def kept(self, *, columns: Iterable[str] | None = None) -> pd.DataFrame:
        """The images that are used: `contracts.KEPT`, sorted by key."""
        return self._dedupe("kept/", columns)

    def rejected(self, *, columns: Iterable[str] | None = None) -> pd.DataFrame:
        """The images that are not used, with the reason: `contracts.REJECTED`, sorted by key."""
        return self._dedupe("rejected/", columns)

    def captions(self, *, columns: Iterable[str] | None = None) -> pd.DataFrame:
        """The captions: `contracts.CAPTIONS`, sorted by caption_id."""
        return self._dedupe("captions.parquet", columns)

    def codes(self, name: str | None = None) -> pd.DataFrame:
        """The codes of a codec: `contracts.CODES`. `name` is a folder of codes/, the latest if None."""
        from pipeline.core.integrity import checked_files
        from pipeline.core.storage import read_manifest

        folder = self._codes_folder(name)
        files = read_manifest(folder, "codes").files
        tables = checked_files(folder, (e for e in files if e.path.endswith(".parquet")))
        return _frame(tables, None)

    def _dedupe(self, prefix: str, columns: Iterable[str] | None) -> pd.DataFrame:
        from pipeline.core.kept_images import dedupe_tables

        wanted = columns if columns is not None else _COLUMNS.get(prefix)
        return _frame(dedupe_tables(self._workspace, prefix), wanted)

    def _codes_folder(self, name: str | None) -> Path:
        there = [f.path.name for f in find_folders(self.root) if f.contract == "codes"]
        wanted = name or self._workspace.latest("codes") or (there[-1] if there else None)
        if wanted is None or wanted not in there:
            hint = name_choices(name, there) if name else "There are no codes yet."
            raise ContractError(
                f"{self.root} has no codes {name or ''}. {hint} Run `pipeline encode`."
            )
        return self.root / "codes" / wanted

    # --- Images ----------------------------------------------------------------------------------

    def image_bytes(self, key: str) -> bytes:
        """The bytes of a kept image as they were fetched, compared with their hash.

        `key` is that of the image, or of one of its samples in shards. Raises KeyError for a key that is not
        in `kept`.
        """
        from pipeline.core.kept_images import read_image, stored_image

        return read_image(self._workspace.segments, stored_image(self._row(key)))

    def pixels(self, key: str) -> npt.NDArray[np.uint8]:
        """The RGB raster that is hashed, encoded and trained on: uint8 [H, W, 3]."""
        from pipeline.core.image_decode.decode import decode_image

        return decode_image(self.image_bytes(key)).pixels_HWC

    def image(self, key: str) -> PIL.Image.Image:
        """The same as a Pillow image."""
        import PIL.Image

        return PIL.Image.fromarray(self.pixels(key))

    def _row(self, key: str) -> dict[str, Any]:
        from pipeline.webdata.keys import image_key

        if self._rows is None:
            from pipeline.core.kept_images import STORED_IMAGE_COLUMNS

            rows = self.kept(columns=("key", *STORED_IMAGE_COLUMNS)).to_dict("records")
            self._rows = {row["key"]: row for row in rows}  # type: ignore[misc]
        return self._rows[key if key in self._rows else image_key(key)]

    def decode(
        self, codes_BN: npt.ArrayLike, codes_name: str | None = None, *, device: str = "cpu"
    ) -> npt.NDArray[np.uint8]:
        """Images uint8 [B, H, W, 3] of codes int [B, N], by the codec that made the codes `codes_name`."""
        import numpy as np
        import torch

        from pipeline.core.contracts import CodecFacts
        from pipeline.core.parsing import parse_dataclass
        from pipeline.core.storage import read_manifest
        from pipeline.models.codecs.load import find_codec, load_codec

        folder = self._codes_folder(codes_name)
        details = read_manifest(folder, "codes").details
        facts = parse_dataclass(CodecFacts, details["codec"], source=f"{folder}/manifest.json")
        codec = load_codec(find_codec(self._workspace.codecs, facts.fingerprint), device)
        codes = torch.as_tensor(np.asarray(codes_BN), dtype=torch.int64, device=device)
        with torch.inference_mode():
            images_BCHW = codec.decode(codes).clamp(0, 1).mul(255).round().to(torch.uint8)
        pixels: npt.NDArray[np.uint8] = images_BCHW.permute(0, 2, 3, 1).cpu().numpy()
        return pixels

    def shards(self, name: str = "default", split: str = "train") -> ShardReader:
        """The samples of a set of shards, by row; `split` is train or val."""
        from pipeline.webdata.reader import ShardReader

        if split not in ("train", "val"):
            raise ConfigError(f"split is {split!r}, expected 'train' or 'val'.")
        return ShardReader(self._workspace.shards(name), split)  # type: ignore[arg-type]

    # --- Stages ----------------------------------------------------------------------------------

    def scrape(self, **options: Any) -> StageReport:
        """`pipeline scrape`; options are the fields of the source's config,
        such as `scrapers.sources.dalleblog.config.DalleBlogConfig`."""
        return self.run("scrape", options)

    def dedupe(self, **options: Any) -> StageReport:
        """`pipeline dedupe`; options are the fields of `pipeline.dedupe.config.DedupeConfig`."""
        return self.run("dedupe", options)

    def train_tokenizer(self, **options: Any) -> StageReport:
        """`pipeline train-tokenizer`; options are the fields of its TrainTokenizerConfig."""
        return self.run("train-tokenizer", options)

    def train_codec(self, **options: Any) -> StageReport:
        """`pipeline train-codec`; options are the fields of its TrainCodecConfig."""
        return self.run("train-codec", options)

    def encode(self, **options: Any) -> StageReport:
        """`pipeline encode`; options are the fields of `pipeline.encode.config.EncodeConfig`."""
        return self.run("encode", options)

    def shard(self, **options: Any) -> StageReport:
        """`pipeline shard`; options are the fields of `pipeline.shard.config.ShardConfig`."""
        return self.run("shard", options)

    def train(self, **options: Any) -> StageReport:
        """`pipeline train`; options are the fields of `pipeline.train.config.TrainConfig`."""
        return self.run("train", options)

    def generate(self, **options: Any) -> StageReport:
        """`pipeline generate`; options are the fields of `pipeline.generate.config.GenerateConfig`."""
        return self.run("generate", options)

    def report(self, **options: Any) -> StageReport:
        """`pipeline report`; options are the fields of `pipeline.report.config.ReportConfig`."""
        return self.run("report", options)

    def run(self, stage: str, options: Mapping[str, Any] | None = None) -> StageReport:
        """Run a stage by its name with options by their field names, as the command line would.

        Options that are not given are those that the workspace remembers, else the defaults. The stage holds
        its locks and leaves its line in runs.jsonl.

        Raises ConfigError for an unknown stage, option or value, and what the stage raises.
        """
        config = self._configure(stage, dict(options or {}))
        self._rows = None
        with (
            keep_record(self.root, f"pipeline.open(…).run({stage!r})") as record,
            record.stage(stage, **STAGES[stage].holds(config)) as run,
            remembering(self.root, stage, config),
        ):
            run.report = report = STAGES[stage].run(config, run)
            record.outcome = report.outcome
        return report

    def _configure(self, stage: str, options: dict[str, Any]) -> StageConfig:
        if stage not in STAGES:
            raise ConfigError(f"There is no stage {stage!r}. {name_choices(stage, list(STAGES))}")
        config = STAGES[stage].config
        declared = declared_options(config)
        for name in options:
            if name not in declared or name == "workspace":
                known = [each for each in declared if each != "workspace"]
                raise ConfigError(f"{stage} has no option {name!r}. {name_choices(name, known)}")
        given = {
            name: from_plain(declared[name], plain_value(value), name=name)
            for name, value in options.items()
        }
        kept = recall(self.root, stage, config, given) if STAGES[stage].remembers else {}
        return STAGES[stage].build({"workspace": self.root, **kept, **given})


def _frame(tables: Sequence[Path], columns: Iterable[str] | None) -> pd.DataFrame:
    import pyarrow as pa

    from pipeline.core.kept_images import read_image_tables

    if columns is None:
        import pyarrow.parquet as pq

        names = pq.read_schema(tables[0]).names
    else:
        names = list(columns)
    batches = list(read_image_tables(tables, names, 65_536))
    return pa.Table.from_batches(batches).to_pandas() if batches else _empty(names)


def _empty(names: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(columns=list(names))

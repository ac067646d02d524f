"""Download a table of URLs by img2dataset, in rounds that can be killed and resumed.

A round is a folder with `list.parquet` (url, caption, more columns), `options.json` and `images/`, which is
img2dataset's alone: any JSON of ours in it would break its next run. A round is complete when every row of
the list is in a shard that has its `_stats.json`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import ConfigError, DependencyError, SourceError
from pipeline.core.progress import Progress, no_progress
from pipeline.core.storage import atomic_write, write_json
from scrapers.bulk.run_img2dataset import WORKER_KILLED
from scrapers.resizing.rule import ResizeRule

logger = logging.getLogger(__name__)

Distributor = Literal["multiprocessing", "pyspark", "ray"]
OPT_OUTS = ("noai", "noimageai", "noindex", "noimageindex")
LIST, OPTIONS, IMAGES = "list.parquet", "options.json", "images"

_RUNNER = Path(__file__).with_name("run_img2dataset.py")
_ROWS = 20_000
_STARTS = 3  # starts in a row that finish no shard
_POLL_S = 0.5
_KILL_AFTER_S = 10.0
_TAIL_BYTES = 20_000
_PNG_COMPRESSION = 6  # of 9, as Pillow's


@dataclass(frozen=True, kw_only=True)
class BulkOptions:
    """How img2dataset downloads. `python` is the interpreter of its environment.

    `attempts` and `timeout_s` are per URL; `agent` is the token in the User-Agent header. Files are kept as
    they come unless there is a rule for `resize`: then img2dataset also re-encodes smaller ones that are in
    another format or transparent.
    """

    python: Path
    distributor: Distributor = "multiprocessing"
    processes: int = 1
    threads: int = 64
    attempts: int = 3
    timeout_s: float = 30.0
    agent: str = "dalle-pipeline"
    ignore_opt_out: bool = False
    resize: ResizeRule | None = None
    shard_rows: int = 10_000

    def for_img2dataset(self, folder: Path, columns: Sequence[str]) -> dict[str, Any]:
        """The arguments of `img2dataset.download` for a round in `folder`; `columns` are saved as well."""
        return {
            "url_list": str(folder / LIST),
            "input_format": "parquet",
            "url_col": "url",
            "caption_col": "caption",
            "save_additional_columns": list(columns),
            "output_folder": str(folder / IMAGES),
            "output_format": "webdataset",
            "number_sample_per_shard": self.shard_rows,
            "processes_count": self.processes,
            "thread_count": self.threads,
            "distributor": self.distributor,
            "retries": self.attempts - 1,
            "timeout": max(1, round(self.timeout_s)),
            "user_agent_token": self.agent,
            "disallowed_header_directives": [] if self.ignore_opt_out else list(OPT_OUTS),
            "compute_hash": "sha256",
            "enable_wandb": False,
            **self._resizing(),
        }

    def _resizing(self) -> dict[str, Any]:
        rule = self.resize
        if rule is None:
            return {"resize_mode": "no", "disable_all_reencoding": True}
        return {
            "resize_mode": rule.mode,
            "image_size": rule.size,
            "resize_only_if_bigger": not rule.enlarge,
            "encode_format": rule.format,
            "encode_quality": _PNG_COMPRESSION if rule.format == "png" else rule.quality,
            "skip_reencode": True,
        }


def write_list(
    rows: Iterable[Mapping[str, Any]], schema: pa.Schema, folder: Path
) -> tuple[Path, int]:
    """Begin a round: write its list in batches; returns its path and its rows. An empty one is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    path, waiting, count = folder / LIST, iter(rows), 0
    with atomic_write(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        while batch := list(islice(waiting, _ROWS)):
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
            count += len(batch)
    if not count:
        path.unlink()
        folder.rmdir()
    return path, count


def download(folder: Path, options: BulkOptions, progress: Progress = no_progress) -> None:
    """Download the list of a round until it is complete; shards that are complete are not downloaded again.

    Raises ConfigError for an interpreter that can't be run, DependencyError if it lacks img2dataset, Ray or
    Spark, SourceError if img2dataset fails several times without finishing a shard.
    """
    wanted = pq.read_metadata(folder / LIST).num_rows
    names = pq.read_schema(folder / LIST).names
    columns = [name for name in names if name not in ("url", "caption")]
    _keep_options(folder, options.for_img2dataset(folder, columns))
    done, idle = rows_done(folder), 0
    while done < wanted:
        code, tail = _run(folder, options, wanted, progress)
        before, done = done, rows_done(folder)
        idle = 0 if done > before else idle + 1
        if done < wanted and idle >= _STARTS:
            raise SourceError(
                f"img2dataset finished {done:,} of {wanted:,} rows of {folder / LIST} and stopped {idle} "
                f"times (exit code {code}). The end of its output:\n{tail}"
            )
        if done < wanted:
            cause = "a worker was killed" if code == WORKER_KILLED else f"exit code {code}"
            logger.warning(
                "img2dataset ended early (%s) after %d of %d rows: going on.", cause, done, wanted
            )
    progress(done, wanted, None)


def rows_done(folder: Path) -> int:
    """The rows of a round in shards that are complete."""
    total = 0
    for path in (folder / IMAGES).glob("*_stats.json"):
        try:
            total += int(json.loads(path.read_bytes())["count"])
        except (OSError, ValueError, KeyError, TypeError):  # half written
            continue
    return total


def _keep_options(folder: Path, wanted: dict[str, Any]) -> None:
    """Write the options of a round once: another shard size would lose rows, or download them twice."""
    path = folder / OPTIONS
    if path.exists():
        kept = json.loads(path.read_bytes())
        wanted |= {
            name: kept[name]
            for name in ("number_sample_per_shard", "output_format")
            if name in kept
        }
    write_json(path, wanted)


def _run(folder: Path, options: BulkOptions, wanted: int, progress: Progress) -> tuple[int, str]:
    """One start of img2dataset: its exit code and the end of its output."""
    environment = {
        **os.environ,
        "NO_ALBUMENTATIONS_UPDATE": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYSPARK_PYTHON": str(options.python),
        "PYSPARK_DRIVER_PYTHON": str(options.python),
    }
    if options.distributor == "pyspark":
        environment.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    for name in ("PYTHONPATH", "PYTHONHOME"):  # ours are not for its interpreter
        environment.pop(name, None)
    command = [str(options.python), str(_RUNNER), str(folder / OPTIONS)]
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                command, stdout=output, stderr=output, env=environment, start_new_session=True
            )
        except OSError as error:
            raise ConfigError(
                f"--img2dataset-python {options.python} can't be run: {error.strerror}. Give the python of "
                "an environment with img2dataset (Python below 3.13)."
            ) from error
        try:
            while process.poll() is None:
                time.sleep(_POLL_S)
                progress(rows_done(folder), wanted, None)
        finally:
            _end(process)
        output.seek(max(0, output.tell() - _TAIL_BYTES))
        tail = output.read().decode("utf-8", "replace")
    _check_packages(tail, options)
    return process.returncode, _last_lines(tail)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and its workers, if it still runs."""
    for number, wait_s in ((signal.SIGTERM, _KILL_AFTER_S), (signal.SIGKILL, None)):
        if process.poll() is not None and number is signal.SIGTERM:
            continue
        try:
            os.killpg(process.pid, number)
            process.wait(wait_s)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _check_packages(tail: str, options: BulkOptions) -> None:
    missing = re.search(r"ModuleNotFoundError: No module named '(img2dataset|ray|pyspark)'", tail)
    if missing:
        raise DependencyError(
            f"{options.python} has no package {missing[1]}. Install it: "
            f"{options.python} -m pip install {missing[1]}."
        )
    if "JAVA_GATEWAY_EXITED" in tail or "JAVA_HOME is not set" in tail:
        raise DependencyError(
            "--distributor pyspark needs a Java runtime, such as Debian's openjdk-17-jre-headless."
        )


def _last_lines(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.strip().splitlines()[-8:])

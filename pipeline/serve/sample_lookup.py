"""What shards and codes say of one image, looked up when its page is opened: by the report's code.

One thread reads and decodes, so that opening many pages at once takes no more than one core from drawing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.contracts import Manifest
from pipeline.core.errors import PipelineError
from pipeline.core.image_decode import DecodeError
from pipeline.core.inventory import find_folders
from pipeline.core.workspace import Workspace
from pipeline.report.config import ReportConfig
from pipeline.report.lookup import (
    OpenShards,
    Place,
    Reconstruction,
    find_codes,
    open_shards,
    reconstruct_samples,
)
from pipeline.report.view import View

# How long a page waits. The first look-up takes longer: it reads the keys of all shards and loads the codec.
WAIT_S = 2.0
FRESH_S = 30.0  # how long a result is used again
MOST_WAITING = 8


@dataclass(frozen=True, kw_only=True)
class Known:
    """Where a sample is and what its codes decode to, as far as there are shards and codes.

    `problem` says what could not be read.
    """

    place: Place | None = None
    reconstruction: Reconstruction | None = None
    has_shards: bool = False
    problem: str = ""


class SampleLookup:
    """Looks up rows of `kept`; for one event loop."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="samples")
        self._recent: dict[str, asyncio.Future[Known]] = {}
        # The last shards and codec, for the thread alone.
        self._shards: tuple[Manifest | None, OpenShards | None] = (None, None)
        self._codecs: dict[Path, Any] = {}

    def close(self) -> None:
        """Stop the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def find(self, row: Mapping[str, Any]) -> Known | None:
        """What is known of a row; None if that is not ready in time, or too many others wait."""
        future = self._recent.get(row["key"]) or self._begin(row)
        if future is None:
            return None
        done, _ = await asyncio.wait([future], timeout=WAIT_S)
        return future.result() if done else None

    def _begin(self, row: Mapping[str, Any]) -> asyncio.Future[Known] | None:
        if sum(not future.done() for future in self._recent.values()) >= MOST_WAITING:
            return None
        loop, key = asyncio.get_running_loop(), row["key"]
        future = loop.run_in_executor(self._thread, self._look_up, row)
        self._recent[key] = future
        future.add_done_callback(lambda _: loop.call_later(FRESH_S, self._recent.pop, key))
        return future

    def _look_up(self, row: Mapping[str, Any]) -> Known:
        root = self._workspace.root
        view = View(
            workspace=self._workspace,
            folders=find_folders(root),
            config=ReportConfig(workspace=root),
            loaded=self._codecs,
        )
        place, has_shards = None, view.latest("shards") is not None
        try:
            shards = self._open_shards(view)
            places = {} if shards is None else shards.find([row["key"]])
            place = places.get(row["key"])
            made = reconstruct_samples(view, [row], find_codes(view, [row], places))
        except (PipelineError, DecodeError, OSError) as error:
            return Known(place=place, has_shards=has_shards, problem=str(error))
        for _ in range(len(self._codecs) - 1):  # those of earlier shards
            del self._codecs[next(iter(self._codecs))]
        return Known(place=place, reconstruction=made.get(row["key"]), has_shards=has_shards)

    def _open_shards(self, view: View) -> OpenShards | None:
        """The latest shards, opened again when there are others."""
        folder = view.latest("shards")
        manifest = None if folder is None else folder.manifest
        if self._shards[0] != manifest:
            self._shards = (None, None)  # their memory is not needed any more
            self._shards = manifest, open_shards(view)
        return self._shards[1]

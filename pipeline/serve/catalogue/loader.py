"""The current catalogue: loaded when first needed, loaded again when dedupe has made other tables.

While dedupe runs again, or its new tables are being read, the last catalogue stays in use: a page is always
made from one state.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import time
from pathlib import Path
from typing import Any

from pipeline.core.cache import default_cache
from pipeline.core.errors import ContractError, PipelineError
from pipeline.core.storage import MANIFEST_NAME, input_digest
from pipeline.core.workspace import Workspace
from pipeline.serve.catalogue.catalogue import Catalogue
from pipeline.serve.catalogue.searching import build_index, index_path

logger = logging.getLogger(__name__)

CHECK_EVERY_S = 2.0


class CatalogueLoader:
    """Holds the catalogue of a workspace; for one event loop."""

    def __init__(self, workspace: Workspace, index: Path | None) -> None:
        self._workspace = workspace
        self._folder = index or default_cache() / "serve"
        self._catalogue: Catalogue | None = None
        self._loading: asyncio.Task[None] | None = None
        self._checked_s = float("-inf")
        self._problem: PipelineError | None = None
        self._indexer: Any = None

    async def current(self) -> Catalogue | None:
        """The catalogue; None if dedupe has not finished yet.

        Raises ContractError or DamageError if its tables can't be read and there is no earlier state.
        """
        if time.monotonic() - self._checked_s >= CHECK_EVERY_S and self._loading is None:
            self._checked_s = time.monotonic()
            self._loading = asyncio.create_task(self._refresh())
        if self._loading is not None and self._catalogue is None:
            await asyncio.shield(self._loading)
        if self._catalogue is None and self._problem is not None:
            raise self._problem
        return self._catalogue

    def close(self) -> None:
        """End the process that makes the index."""
        if self._indexer is not None and self._indexer.is_alive():
            self._indexer.terminate()

    async def _refresh(self) -> None:
        try:
            digest = await asyncio.to_thread(self._digest)
            if digest is None or (self._catalogue and self._catalogue.digest == digest):
                return
            self._catalogue = await asyncio.to_thread(self._load, digest)
            self._problem = None
        except PipelineError as error:
            logger.warning("The images can't be shown: %s", error)
            self._problem = error
        finally:
            self._loading = None

    def _digest(self) -> str | None:
        """The digest of dedupe's folder, None if it is not finished."""
        if not (self._workspace.dedupe / MANIFEST_NAME).exists():
            return None
        try:
            return input_digest(self._workspace.dedupe)
        except ContractError:
            if not (self._workspace.dedupe / MANIFEST_NAME).exists():
                return None  # dedupe has just begun again
            raise

    def _load(self, digest: str) -> Catalogue:
        path = index_path(self._folder, digest)
        catalogue = Catalogue(self._workspace, digest=digest, index=path)
        if not path.exists():
            self.close()
            # In a process of its own: it takes a second of Python for every 30,000 captions.
            context = multiprocessing.get_context("spawn")
            self._indexer = context.Process(
                target=build_index, args=(self._workspace.root.absolute(), path), daemon=True
            )
            self._indexer.start()
        return catalogue

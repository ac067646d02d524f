"""The routes over the images: pages, thumbnails, original files.

A request names an image by its key, which is looked up in the catalogue: no part of a request becomes a path.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from typing import Any

from aiohttp import web
from PIL import Image

from pipeline.core.errors import PipelineError
from pipeline.core.image_decode import DecodeError, decode_image
from pipeline.serve.catalogue.catalogue import Catalogue
from pipeline.serve.catalogue.columns import Ints
from pipeline.serve.catalogue.loader import CatalogueLoader
from pipeline.serve.errors import RequestError
from pipeline.serve.pages import browse, sample
from pipeline.serve.pages.browse import CLUSTER_IMAGES, CLUSTER_PAGE, PAGE_ROWS, Shown
from pipeline.serve.pages.shell import page
from pipeline.serve.responses import html_response
from pipeline.serve.sample_lookup import SampleLookup
from pipeline.serve.thumbnails import MAX_PIXELS, Thumbnails, jpeg_of

FOREVER = "private, max-age=31536000, immutable"
# Formats that browsers show and that can hold no script, by how their files begin.
_SHOWN: Sequence[tuple[bytes, str]] = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)
_CONVERTING = 2  # originals in other formats that are converted at once


class Browsing:
    """The handlers, over the current catalogue."""

    def __init__(
        self, loader: CatalogueLoader, thumbnails: Thumbnails, lookup: SampleLookup
    ) -> None:
        self._loader, self._thumbnails, self._lookup = loader, thumbnails, lookup
        self._converting = asyncio.Semaphore(_CONVERTING)
        self._clusters: tuple[str, Ints, Ints] | None = None

    def add_routes(self, app: web.Application) -> None:
        """Add the routes to the application."""
        app.router.add_get("/browse", self._browse)
        app.router.add_get("/clusters", self._show_clusters)
        app.router.add_get("/compare", self._compare)
        app.router.add_get("/sample/{key}", self._sample)
        app.router.add_get("/thumb/{key}", self._thumb)
        app.router.add_get("/image/{key}", self._image)

    async def _browse(self, request: web.Request) -> web.Response:
        catalogue = await self._loader.current()
        if catalogue is None:
            html = page("Images", f"<h1>Images</h1>{browse.NO_DEDUPE}", current="/browse")
            return html_response(html)
        query = browse.read_query(request.query)
        rows = catalogue.cached(query)
        if rows is None:
            rows = await asyncio.to_thread(catalogue.select, query)
        start = browse.read_start(request.query, len(rows), PAGE_ROWS)
        shown = await self._show(catalogue, rows[start : start + PAGE_ROWS])
        html = browse.browse_page(
            query,
            shown,
            start=start,
            total=len(rows),
            sections=tuple(sorted(catalogue.columns.sections.values)),
            is_indexed=catalogue.search.is_indexed,
        )
        following = rows[start + PAGE_ROWS : start + 2 * PAGE_ROWS]
        self._thumbnails.prepare(lambda: catalogue.places(following), catalogue.read)
        return html_response(html)

    async def _show(self, catalogue: Catalogue, rows: Ints) -> list[Shown]:
        """Entries with their thumbnails as far as they are ready."""
        entries = catalogue.entries(rows)
        places = [entry.place for entry in entries if entry.place is not None]
        ready = await self._thumbnails.of_page(places, catalogue.read)
        return [
            Shown(
                entry=entry,
                thumbnail=None if entry.place is None else ready.get(entry.place.bytes_sha256),
            )
            for entry in entries
        ]

    async def _show_clusters(self, request: web.Request) -> web.Response:
        catalogue = await self._loader.current()
        if catalogue is None:
            html = page(
                "Near duplicates",
                f"<h1>Near duplicates</h1>{browse.NO_DEDUPE}",
                current="/clusters",
            )
            return html_response(html)
        leaders, sizes = await asyncio.to_thread(self._list_clusters, catalogue)
        start = browse.read_start(request.query, len(leaders), CLUSTER_PAGE)
        clusters = []
        for leader in leaders[start : start + CLUSTER_PAGE]:
            members = await asyncio.to_thread(catalogue.members, int(leader))
            shown = await self._show(catalogue, members[:CLUSTER_IMAGES])
            clusters.append(browse.Cluster(size=int(sizes[leader]), shown=shown))
        return html_response(browse.clusters_page(clusters, start=start, total=len(leaders)))

    def _list_clusters(self, catalogue: Catalogue) -> tuple[Ints, Ints]:
        if self._clusters is None or self._clusters[0] != catalogue.digest:
            self._clusters = catalogue.digest, catalogue.clusters(), catalogue.cluster_sizes()
        return self._clusters[1:]

    async def _sample(self, request: web.Request) -> web.Response:
        catalogue, row = await self._find(request.match_info["key"])
        details = await asyncio.to_thread(catalogue.details, row)
        members = await asyncio.to_thread(catalogue.members, row)
        cluster = await self._show(catalogue, members[:CLUSTER_IMAGES]) if len(members) > 1 else []
        known = None if "reason" in details else await self._lookup.find(details)
        html = sample.sample_page(catalogue.entry(row), details, known, cluster, size=len(members))
        return html_response(html)

    async def _compare(self, request: web.Request) -> web.Response:
        keys = [request.query.get(name, "") for name in ("a", "b")]
        if not all(keys):
            return html_response(sample.choose_page(""))
        pairs: list[tuple[Any, Any]] = []
        for key in keys:
            try:
                catalogue, row = await self._find(key)
            except RequestError as error:
                return html_response(sample.choose_page(error.message))
            details = await asyncio.to_thread(catalogue.details, row)
            pairs.append((catalogue.entry(row), details))
        return html_response(sample.compare_page(pairs))

    async def _thumb(self, request: web.Request) -> web.Response:
        catalogue, row = await self._find(request.match_info["key"])
        place = catalogue.place(row)
        thumbnail = "" if place is None else await self._thumbnails.get(place, catalogue.read)
        if not thumbnail:
            raise RequestError(404, "This image can't be shown.")
        return web.Response(
            body=jpeg_of(thumbnail), content_type="image/jpeg", headers={"Cache-Control": FOREVER}
        )

    async def _image(self, request: web.Request) -> web.Response:
        catalogue, row = await self._find(request.match_info["key"])
        place = catalogue.place(row)
        if place is None:
            raise RequestError(404, "This image has no file.")
        async with self._converting:
            body, kind = await asyncio.to_thread(read_for_browser, catalogue, place)
        # A file from anywhere: nothing in it may run, even if it is opened as a page of its own.
        headers = {
            "Cache-Control": FOREVER,
            "Content-Security-Policy": "default-src 'none'; sandbox",
        }
        return web.Response(body=body, content_type=kind, headers=headers)

    async def _find(self, key: str) -> tuple[Catalogue, int]:
        catalogue = await self._loader.current()
        if catalogue is None:
            raise RequestError(404, "There are no tables of images yet. Run `pipeline dedupe`.")
        row = catalogue.row_of(key)
        if row is None:
            raise RequestError(404, f"There is no image with the key {key[:100]!r}.")
        return catalogue, row


def read_for_browser(catalogue: Catalogue, place: Any) -> tuple[bytes, str]:
    """The original bytes of an image and their type; converted to PNG if browsers may not show its format.

    Raises RequestError if the bytes are gone or no image.
    """
    try:
        data = catalogue.read(place)
        raster = decode_image(data, max_pixels=MAX_PIXELS)
    except (PipelineError, OSError) as error:
        raise RequestError(404, f"The file can't be read: {error}") from error
    except DecodeError as error:
        raise RequestError(404, f"The file can't be shown: {error}.") from error
    for start, kind in _SHOWN:
        if data.startswith(start):
            return data, kind
    out = io.BytesIO()
    Image.fromarray(raster.pixels_HWC).save(out, "PNG", compress_level=1)
    return out.getvalue(), "image/png"

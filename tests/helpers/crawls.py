"""A server that serves small PNGs and misbehaves as configured, and a source made of plain captions."""

from __future__ import annotations

import asyncio
import io
import ssl
import tarfile
import threading
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from scrapers.fetch.optouts.tdmrep import TDMREP_PATH
from scrapers.rawstore.ledger import Ledger
from scrapers.source import CaptionForm, CaptionPlan, Discovery, StartPage
from scrapers.sources.dalleblog.config import DalleBlogConfig


def png(seed: str, size: int = 600) -> bytes:
    """A PNG by structure: signature, one chunk that differs by seed, IEND."""
    data = (seed.encode() * (size // max(1, len(seed)) + 1))[:size]
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    crc = zlib.crc32(kind + data)
    return len(data).to_bytes(4, "big") + kind + data + crc.to_bytes(4, "big")


def answer(
    body: bytes = b"", status: int = 200, length: int | None = None, **headers: Any
) -> bytes:
    """An HTTP/1.1 answer as bytes; `length` is what Content-Length claims."""
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body) if length is None else length}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@dataclass
class Ask:
    """A request as the server sees it; `turn` counts requests for its path from 1."""

    path: str
    headers: dict[str, str]
    turn: int
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()


# Gives the bytes of an answer, or None to close the connection (after having written what it likes).
Behaviour = Callable[[Ask], Awaitable[bytes | None]]


@dataclass
class Server:
    """Serves on a port of its own in a thread of its own until closed."""

    behaviour: Behaviour | None = None
    hits: Counter[str] = field(default_factory=Counter)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    robots: bytes = b""
    robots_answer: bytes | None = None
    tdmrep_answer: bytes | None = None
    port: int = 0
    host: str = "127.0.0.1"
    most_at_once: int = 0
    # With a certificate and its key in this file it speaks TLS.
    certificate: Path | None = None
    _at_once: int = 0

    def __post_init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        assert started.wait(10)

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, self.host, self.port, ssl=self._tls())
        )
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    def _tls(self) -> ssl.SSLContext | None:
        if self.certificate is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate)
        return context

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                path = head[0].split(" ")[1]
                headers = {
                    k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:]) if k
                }
                self.hits[path] += 1
                self.asked.append((path, headers))
                self._at_once += 1
                self.most_at_once = max(self.most_at_once, self._at_once)
                try:
                    data = await self._answer(Ask(path, headers, self.hits[path], writer))
                finally:
                    self._at_once -= 1
                if data is None:
                    break
                writer.write(data)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _answer(self, ask: Ask) -> bytes | None:
        if ask.path == "/robots.txt":
            return self.robots_answer or answer(self.robots, 200 if self.robots else 404)
        if ask.path == TDMREP_PATH:
            return self.tdmrep_answer or answer(b"", 404)
        if self.behaviour is not None:
            return await self.behaviour(ask)
        return answer(png(ask.path))

    @property
    def image_hits(self) -> Counter[str]:
        about = ("/robots.txt", TDMREP_PATH)
        return Counter({path: n for path, n in dict(self.hits).items() if path not in about})


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@dataclass
class PlainSource:
    """Captions `c0`, `c1`… of one section, each with its ranks."""

    base: str
    captions: int = 3
    ranks: int = 4
    name: str = "plain"
    start_url: str | None = None
    section: str = "things"
    forms: tuple[str, ...] = ("",)
    pages: list[StartPage | None] = field(default_factory=list)
    differences: tuple[str, ...] = ()
    page_meta: tuple[tuple[str, str], ...] = ()

    def plans(self) -> Iterator[CaptionPlan]:
        for number in range(self.captions):
            forms = tuple(
                CaptionForm(
                    caption=f"caption {form}{number}",
                    url_template=f"{self.base}/samples/{self.section}/{form}c{number}_{{rank}}.png",
                )
                for form in self.forms
            )
            yield CaptionPlan(
                section=self.section, forms=forms, ranks=tuple(range(self.ranks)), masked=False
            )

    def discover(self, page: StartPage | None) -> Discovery:
        self.pages.append(page)
        return Discovery(
            plans=Again(self.plans),
            num_captions=self.captions,
            num_urls=self.captions * self.ranks,
            sections=(),
            differences=self.differences,
            warnings=self.differences,
            page_meta=self.page_meta,
        )


@dataclass
class Again:
    """An iterable that begins anew each time."""

    make: Callable[[], Iterator[CaptionPlan]]

    def __iter__(self) -> Iterator[CaptionPlan]:
        return self.make()


@pytest.fixture
def quick(tmp_path: Path) -> DalleBlogConfig:
    """Options with short waits."""
    return DalleBlogConfig(
        workspace=tmp_path / "data",
        backoff_s=0.01,
        max_backoff_s=0.05,
        timeout_s=2.0,
        max_outage_s=5.0,
    )


def stored(root: Path) -> dict[str, bytes]:
    """URL → bytes of all images that are done, read where the ledger says they lie."""
    ledger = Ledger(root / "raw" / "ledger.sqlite")
    sql = "SELECT url, segment, offset, bytes FROM items WHERE state = 'done'"
    found = {}
    for url, segment, offset, size in ledger.query(sql):
        with (root / "raw" / "segments" / str(segment)).open("rb") as file:
            file.seek(int(str(offset)))
            found[str(url)] = file.read(int(str(size)))
    ledger.close()
    return found


def states(root: Path) -> dict[str, tuple[str, str | None]]:
    """URL → state and reason."""
    ledger = Ledger(root / "raw" / "ledger.sqlite")
    found = {
        str(u): (str(s), None if r is None else str(r))
        for u, s, r in ledger.query("SELECT url, state, reason FROM items")
    }
    ledger.close()
    return found


def members(root: Path) -> dict[str, bytes]:
    """Every member of every segment, as `tarfile` reads them; a name twice is an error."""
    found: dict[str, bytes] = {}
    for path in sorted((root / "raw" / "segments").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                assert member.name not in found
                found[member.name] = io.BytesIO(file.read()).getvalue()
    return found


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever proxies this machine has, tests ask their own servers."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(autouse=True)
def _short_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive rests for an instant and not for a minute."""
    monkeypatch.setattr("scrapers.wayback.archive.REST_S", 0.05)

"""Web archives by pywb itself: records in, an address to ask at out."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
# pywb's requirements and ours don't mix: it has an environment of its own, made by `make test`.
PYTHON = Path(os.environ.get("DALLE_ARCHIVE_PYTHON", ROOT / ".venv-archive" / "bin" / "python"))
SERVE = Path(__file__).with_name("serve_pywb.py")

needs_pywb = pytest.mark.skipif(
    not PYTHON.exists(), reason=f"no {PYTHON}, in which pywb runs: see make unit"
)


@dataclass
class Recording:
    """Records for WARCs; `lost` are WARCs that are gone when the archive is asked, `config` is pywb's."""

    config: dict[str, Any] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def add(
        self,
        url: str,
        timestamp: str,
        body: bytes = b"",
        *,
        status: str = "200 OK",
        kind: str = "image/png",
        headers: Sequence[tuple[str, str]] = (),
        revisits: tuple[str, str] | None = None,
        warc: str = "a.warc.gz",
    ) -> None:
        """A capture with the body as it came over the wire; `revisits`: URL and timestamp of its first."""
        first = None if revisits is None else (revisits[0], _date(revisits[1]))
        self.records.append(
            {
                "url": url,
                "date": _date(timestamp),
                "status": status,
                "headers": [["Content-Type", kind], *map(list, headers)],
                "body": base64.b64encode(body).decode(),
                "revisits": first,
                "warc": warc,
            }
        )


def _date(timestamp: str) -> str:
    t = timestamp
    return f"{t[:4]}-{t[4:6]}-{t[6:8]}T{t[8:10]}:{t[10:12]}:{t[12:14]}Z"


class Pywb:
    """A process that has imported pywb, and the archives that it serves until `close`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [str(PYTHON), str(SERVE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={name: v for name, v in os.environ.items() if name != "PYTHONPATH"},
        )

    @contextlib.contextmanager
    def archive(self, folder: Path, recording: Recording) -> Iterator[str]:
        """Serve a collection; yields its URL."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(json.dumps(recording.config))
        wanted = {"folder": str(folder), "records": recording.records, "lost": recording.lost}
        self._process.stdin.write(json.dumps(wanted).encode() + b"\n")
        self._process.stdin.flush()
        port, _, served_by = self._process.stdout.readline().partition(b" ")
        assert port.isdigit(), (folder / "log").read_text()
        try:
            yield f"http://127.0.0.1:{int(port)}/coll"
        finally:
            os.kill(int(served_by), signal.SIGTERM)

    def close(self) -> None:
        """End the process and all archives."""
        self._process.communicate(timeout=30)


def chunked(body: bytes, size: int = 100) -> bytes:
    """A body as chunks."""
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def gzipped(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return packer.compress(body) + packer.flush()

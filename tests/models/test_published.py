"""Published files: downloaded once from a real server, verified by hash."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline.core.cache import default_cache
from pipeline.core.errors import ModelError, StorageError
from pipeline.models.published import PublishedFile, fetch_published

DATA = b"weights " * 500_000
SHA256 = hashlib.sha256(DATA).hexdigest()


@dataclass
class Publisher:
    """A server of one file, and what it is to do next."""

    address: str = ""
    asked: list[str] = field(default_factory=list)
    status: int = 200
    content_type: str = "application/octet-stream"
    data: bytes = DATA
    sent: int = len(DATA)

    def file(self, *, sha256: str | None = SHA256) -> PublishedFile:
        return PublishedFile(name="last.ckpt", url=f"{self.address}/f/12/?dl=1", sha256=sha256)


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    state = Publisher()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.path)
            if "12" in self.path:  # as the published addresses do
                self.send_response(302)
                self.send_header("Location", "/moved")
                self.end_headers()
                return
            self.send_response(state.status)
            self.send_header("Content-Type", state.content_type)
            self.send_header("Content-Length", str(len(state.data)))
            self.end_headers()
            self.wfile.write(state.data[: state.sent])

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield state
        server.shutdown()


def test_a_file_is_fetched_once(publisher: Publisher, tmp_path: Path) -> None:
    for _ in range(2):
        path = fetch_published(publisher.file(), tmp_path / "cache")
        assert path.read_bytes() == DATA
    assert publisher.asked == ["/f/12/?dl=1", "/moved"]


def test_another_hash_than_published_is_refused_and_leaves_no_file(
    publisher: Publisher, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=f"has the sha256 {SHA256}, expected 0000"):
        fetch_published(publisher.file(sha256="0" * 64), tmp_path)
    assert not (tmp_path / "last.ckpt").exists()


def test_a_hash_that_is_not_published_is_reported_and_kept(
    publisher: Publisher, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = fetch_published(publisher.file(sha256=None), tmp_path)
    assert f"has the sha256 {SHA256}, recorded in" in caplog.text
    assert (tmp_path / "last.ckpt.sha256").read_text() == SHA256 + "\n"
    fetch_published(publisher.file(sha256=None), tmp_path)
    path.write_bytes(DATA[:-1] + b"!")
    with pytest.raises(ModelError, match=f"expected {SHA256}"):
        fetch_published(publisher.file(sha256=None), tmp_path)


def test_a_file_downloaded_by_hand_is_used_without_the_network(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(DATA)
    file = PublishedFile(name="last.ckpt", url="http://127.0.0.1:9/", sha256=SHA256)
    assert fetch_published(file, tmp_path).read_bytes() == DATA


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"status": 404}, "Not Found"),
        ({"status": 503}, "Service Unavailable"),
        ({"sent": 1_000_000}, f"ended after 1000000 of {len(DATA)} bytes"),
        ({"content_type": "text/html; charset=utf-8"}, "a web page, not the file"),
    ],
    ids=["gone", "busy", "cut short", "a page"],
)
def test_an_error_is_reported_and_nothing_is_left(
    publisher: Publisher, tmp_path: Path, change: dict[str, object], complaint: str
) -> None:
    vars(publisher).update(change)
    with pytest.raises(
        ModelError, match=rf"can't be downloaded from .*{complaint}.*download the file elsewhere"
    ):
        fetch_published(publisher.file(), tmp_path)
    assert not [path for path in tmp_path.iterdir() if not path.name.endswith(".lock")]
    vars(publisher).update(vars(Publisher(publisher.address)))
    assert fetch_published(publisher.file(), tmp_path).read_bytes() == DATA


def test_a_cache_that_cannot_be_made_is_named(publisher: Publisher, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"cache .* can't be used"):
        fetch_published(publisher.file(), tmp_path / "file" / "cache")


def test_the_cache_follows_the_users_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert default_cache() == Path("/elsewhere/dalle-pipeline")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == Path.home() / ".cache" / "dalle-pipeline"

"""Images in the user's own files: read where they are, and only if they are still the same."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pytest

from pipeline.core.errors import ContractError, DamageError
from pipeline.core.kept_images import StoredImage, read_image
from pipeline.core.original_files import read_whole, stat_original
from pipeline.core.storage import sha256_bytes

HASH = sha256_bytes(b"3456")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photos" / "a.png"
    path.parent.mkdir()
    path.write_bytes(b"0123456789")
    return path


def read(path: str | Path, *, offset: int = 3, size: int = 4, sha256: str = HASH) -> bytes:
    return read_image(Path("raw/segments"), StoredImage(str(path), offset, size, sha256))


def test_bytes_are_read_where_they_are(photo: Path) -> None:
    assert read(photo) == b"3456"
    assert read(photo, offset=0, size=10, sha256=sha256_bytes(b"0123456789")) == b"0123456789"


def test_bytes_are_read_from_an_address() -> None:
    with fsspec.open("memory://bucket/a.tar", "wb") as file:
        file.write(b"0123456789")
    assert read("memory://bucket/a.tar") == b"3456"
    assert stat_original("memory://bucket/a.tar").bytes == 10


def test_a_store_gives_a_file_that_was_written_again_another_time() -> None:
    states = []
    for content in (b"0123456789", b"0123456798"):
        with fsspec.open("memory://bucket/b.tar", "wb") as file:
            file.write(content)
        states.append(stat_original("memory://bucket/b.tar"))
    assert states[0].mtime != states[1].mtime


def test_a_moved_file_is_named_with_what_to_do(photo: Path) -> None:
    photo.rename(photo.with_name("b.png"))
    with pytest.raises(
        ContractError, match=r"a\.png, in which images were scraped, is missing: "
    ) as e:
        read(photo)
    assert "run `pipeline scrape` for its source again" in str(e.value)
    assert not isinstance(e.value, DamageError)


@pytest.mark.parametrize("content", [b"0129456789", b"01234", b"012", b""])
def test_a_changed_file_is_named_with_what_was_expected(photo: Path, content: bytes) -> None:
    photo.write_bytes(content)
    expected = (
        rf"a\.png has changed since it was scraped: expected at byte 3 .* 4 bytes .*{HASH[:12]}"
    )
    with pytest.raises(ContractError, match=expected):
        read(photo)


def test_a_missing_address_is_named() -> None:
    with pytest.raises(ContractError, match=r"memory://bucket/none\.tar, .* is missing"):
        read("memory://bucket/none.tar")


def test_an_address_that_nothing_can_read_is_named() -> None:
    with pytest.raises(ContractError, match=r"nostore://bucket/a\.tar, .* can't be read"):
        read("nostore://bucket/a.tar")


@pytest.mark.parametrize("place", ["/dev/zero", "/tmp"])
def test_devices_and_folders_are_not_read(place: str) -> None:
    with pytest.raises(ContractError, match="it is not a regular file"):
        read(place)


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ContractError, match="it is not a regular file"):
        read(tmp_path / "pipe.png")


def test_never_more_is_read_than_the_file_has(photo: Path) -> None:
    with pytest.raises(ContractError, match="has changed"):
        read(photo, size=2**60)


def test_a_whole_file_comes_with_the_state_that_it_belongs_to(photo: Path) -> None:
    data, state = read_whole(str(photo), max_bytes=10)
    assert data == b"0123456789"
    assert state == (10, photo.stat().st_mtime_ns)
    assert read_whole(str(photo), max_bytes=9) == (None, state)

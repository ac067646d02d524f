from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import ContractError
from pipeline.webdata.npy import smallest_dtype
from pipeline.webdata.tar import is_key, member_bytes, open_shard, table_path
from tests.helpers.webdata import encode_npy

SAMPLES = [("first", b"caption", b"x" * 512), ("second_2-B", "naïve".encode(), b"")]


def write(path: Path) -> None:
    with open_shard(path, 3) as writer:
        for key, text, data in SAMPLES:
            writer.add(key, [("txt", text), ("tokens.npy", data)])


def test_python_reads_plain_ustar_without_times_and_owners(tmp_path: Path) -> None:
    write(tmp_path / "a.tar")
    with tarfile.open(tmp_path / "a.tar") as tar:
        members = tar.getmembers()
        assert tar.pax_headers == {}
        assert [m.name for m in members] == [
            *("first.txt", "first.tokens.npy"),
            *("second_2-B.txt", "second_2-B.tokens.npy"),
        ]
        for m in members:
            assert (m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) == (0, 0, 0, "", "", 0o644)
        contents = [tar.extractfile(m) for m in members]
        assert [c.read() for c in contents if c] == [b"caption", b"x" * 512, "naïve".encode(), b""]


def test_headers_are_those_that_python_writes(tmp_path: Path) -> None:
    write(tmp_path / "a.tar")
    info = tarfile.TarInfo("first.txt")
    info.size, info.mode = 7, 0o644
    assert (tmp_path / "a.tar").read_bytes()[:512] == info.tobuf(tarfile.USTAR_FORMAT)


def test_tar_itself_lists_it_without_a_word_on_stderr(tmp_path: Path) -> None:
    write(tmp_path / "a.tar")
    result = subprocess.run(["tar", "tvf", tmp_path / "a.tar"], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert len(result.stdout.splitlines()) == 4


def test_the_table_has_the_offset_of_each_member(tmp_path: Path) -> None:
    write(tmp_path / "a.tar")
    data = (tmp_path / "a.tar").read_bytes()
    table = np.load(table_path(tmp_path / "a.tar"))
    assert table.shape == (2, 3, 2)
    for (_, text, tokens), row in zip(SAMPLES, table.tolist(), strict=True):
        (a, n), (b, m), missing = row
        assert (data[a : a + n], data[b : b + m], missing) == (text, tokens, [0, 0])


def test_the_writer_computes_hash_and_size(tmp_path: Path) -> None:
    import hashlib

    with open_shard(tmp_path / "a.tar", 2) as writer:
        for number in range(3000):
            writer.add(f"k{number}", [("txt", b"x" * number)])
    data = (tmp_path / "a.tar").read_bytes()
    assert writer.sha256 == hashlib.sha256(data).hexdigest()
    assert writer.bytes == len(data) == 1024 + sum(member_bytes(n) for n in range(3000))


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a.tar")
    write(tmp_path / "b.tar")
    for path in (lambda p: p, table_path):
        assert path(tmp_path / "a.tar").read_bytes() == path(tmp_path / "b.tar").read_bytes()


@pytest.mark.parametrize("key", ["", "a.b", "a/b", "../a", "é", "a b", "x" * 81, "a\n"])
def test_keys_that_would_split_or_nest_are_refused(tmp_path: Path, key: str) -> None:
    assert not is_key(key)
    with (
        pytest.raises(ContractError, match="can't name a sample"),
        open_shard(tmp_path / "a", 1) as w,
    ):
        w.add(key, [("txt", b"")])
    assert list(tmp_path.iterdir()) == []


def test_duplicate_keys_are_refused(tmp_path: Path) -> None:
    with open_shard(tmp_path / "a", 1) as writer:
        writer.add("a", [("txt", b"")])
        with pytest.raises(ContractError, match="Two samples"):
            writer.add("a", [("txt", b"")])


@pytest.mark.parametrize("dtype", ["<u2", "<i4"])
def test_npy_members_are_what_numpy_writes(dtype: str) -> None:
    array = np.arange(7, dtype=dtype)
    file = io.BytesIO()
    np.save(file, array)
    assert encode_npy(array) == file.getvalue()


def test_ids_take_two_bytes_while_they_fit() -> None:
    assert (smallest_dtype(65536), smallest_dtype(65537)) == ("<u2", "<i4")

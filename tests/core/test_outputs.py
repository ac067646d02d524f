"""Files named by the user appear completely or not at all, and nothing else is lost."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.core.errors import ConfigError
from pipeline.core.outputs import leads_to_stdout, write_output
from tests.helpers.cli import run_command

MAGIC = b"PAR1"


def write(path: Path, data: bytes = b"PAR1 new", *, overwrite: bool = True) -> bool:
    with write_output(path, kind="parquet file", magic=MAGIC, overwrite=overwrite) as output:
        output.file.write(data)
    return output.unchanged


def test_a_new_file_appears_and_an_old_one_of_its_kind_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out"
    assert not write(path, b"PAR1 old")
    path.chmod(0o640)
    assert not write(path)
    assert path.read_bytes() == b"PAR1 new"
    assert path.stat().st_mode & 0o777 == 0o640
    assert write(path)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_unfinished_file_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "out"
    write(path, b"PAR1 old")
    with (
        pytest.raises(ZeroDivisionError),
        write_output(path, kind="parquet file", magic=MAGIC) as output,
    ):
        output.file.write(b"half" * (1 // 0))
    assert path.read_bytes() == b"PAR1 old"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_neighbour_with_the_name_of_a_partial_file_stays(tmp_path: Path) -> None:
    (tmp_path / "out.partial").write_text("mine")
    write(tmp_path / "out")
    assert (tmp_path / "out.partial").read_text() == "mine"


def test_a_file_of_another_kind_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "thesis.txt"
    path.write_text("mine")
    with pytest.raises(ConfigError, match=r"thesis\.txt exists and is not a parquet file"):
        write(path)
    assert path.read_text() == "mine"


def test_without_overwrite_only_the_same_bytes_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "dalle.pt"
    write(path, b"PAR1 old")
    assert write(path, b"PAR1 old", overwrite=False)
    with pytest.raises(ConfigError, match="--overwrite"):
        write(path, overwrite=False)
    assert path.read_bytes() == b"PAR1 old"
    assert [p.name for p in tmp_path.iterdir()] == ["dalle.pt"]


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "link"
    link.symlink_to("there/out")
    for data in (b"PAR1 one", b"PAR1 two"):
        write(link, data)
        assert (tmp_path / "there" / "out").read_bytes() == data
        assert link.is_symlink()


def test_a_pipe_is_written_into(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(path.read_bytes()))
    reader.start()
    write(path, MAGIC + bytes(1 << 20))
    reader.join()
    assert received == [MAGIC + bytes(1 << 20)]
    assert path.is_fifo()


def test_a_pipe_gets_nothing_if_the_work_fails(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with (
        pytest.raises(ZeroDivisionError),
        write_output(path, kind="parquet file", magic=MAGIC) as output,
    ):
        output.file.write(b"half" * (1 // 0))
    assert path.is_fifo()


@pytest.mark.parametrize(
    "name", ["folder", "missing/out", "folder/missing/out", "loop", "file/out"]
)
def test_an_unwritable_target_is_explained(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ConfigError, match=r"folder|can't be written"):
        write(tmp_path / name)


def test_standard_output_is_recognised_by_all_of_its_names() -> None:
    for name in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"):
        assert leads_to_stdout(Path(name))
    for name in ("/dev/stderr", "/dev/null", "out", "1"):
        assert not leads_to_stdout(Path(name))


def test_only_a_table_of_urls_goes_to_standard_output(tmp_path: Path) -> None:
    arguments = ["scrape", "--list-urls", "--no-page", "--limit", "1", "--out"]
    plain = tmp_path / "plain.parquet"
    result = run_command([*arguments, str(plain)])
    assert result.exit_code == 0, result.output
    command = [sys.executable, "-m", "pipeline", *arguments]
    piped = subprocess.run([*command, "/dev/stdout"], capture_output=True, check=True)
    assert piped.stdout == plain.read_bytes()
    redirected = tmp_path / "redirected"
    with redirected.open("wb") as file:
        subprocess.run([*command, "/dev/fd/1"], stdout=file, check=True)
    assert redirected.read_bytes() == plain.read_bytes()

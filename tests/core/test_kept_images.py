"""The bytes of kept images are read in one place, and only if they are the inspected ones."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import ContractError, DamageError
from pipeline.core.kept_images import StoredImage, kept_tables, read_image, read_kept
from pipeline.core.storage import sha256_bytes
from pipeline.core.workspace import Workspace
from tests.helpers.kept_workspace import make_workspace

__all__ = ["make_workspace"]

ROOT = Path(__file__).parents[2]
MakeWorkspace = Callable[..., Workspace]


@pytest.fixture
def segments(tmp_path: Path) -> Path:
    folder = tmp_path / "raw" / "segments"
    folder.mkdir(parents=True)
    (folder / "00000.tar").write_bytes(b"0123456789")
    return folder


def place(**changes: Any) -> StoredImage:
    found = StoredImage("00000.tar", 3, 4, sha256_bytes(b"3456"))
    return found._replace(**changes)


def test_the_bytes_at_a_location_are_read(segments: Path) -> None:
    assert read_image(segments, place()) == b"3456"


@pytest.mark.parametrize(
    "wrong",
    [
        {"bytes_sha256": sha256_bytes(b"others")},
        {"bytes_sha256": None},
        {"offset": 4},
        {"offset": 8},
        {"offset": 100},
        {"bytes": 3},
    ],
)
def test_other_bytes_are_damage_and_the_advice_is_to_repair(
    segments: Path, wrong: dict[str, object]
) -> None:
    with pytest.raises(
        DamageError, match=r"raw/segments/00000\.tar does not match .*verify --repair"
    ):
        read_image(segments, place(**wrong))


def test_a_missing_segment_is_an_error_of_the_stage(segments: Path) -> None:
    with pytest.raises(
        ContractError, match=r"00001\.tar.* can't be read .*verify --repair"
    ) as found:
        read_image(segments, place(segment="00001.tar"))
    assert not isinstance(found.value, DamageError)


@pytest.mark.parametrize("segment", ["../ledger.sqlite", "", "linked.tar", "sub"])
def test_a_segment_elsewhere_is_never_read(segments: Path, segment: str) -> None:
    (segments.parent / "ledger.sqlite").write_bytes(b"0123456789")
    (segments / "linked.tar").symlink_to("/etc/passwd")
    (segments / "sub").mkdir()
    with pytest.raises(ContractError, match="names the path"):
        read_image(segments, place(segment=segment))


def test_kept_images_come_by_pixel_hash_and_by_split(make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace(20)
    everything, held_out = read_kept(workspace), read_kept(workspace, "val")
    assert list(everything) == sorted(everything)
    assert (len(everything), len(held_out)) == (20, 4)
    for pixels, image in held_out.items():
        assert everything[pixels] == image
        assert read_image(workspace.segments, image.place).startswith(b"\x89PNG")


def test_a_changed_table_of_kept_images_is_damage(make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace(20)
    (table,) = kept_tables(workspace)
    data = bytearray(table.read_bytes())
    data[len(data) // 2] ^= 1
    table.write_bytes(data)
    with pytest.raises(DamageError, match=r"kept/00000\.parquet does not match the sha256"):
        read_kept(workspace)


def calls(path: Path) -> set[str]:
    """The dotted names of what a module imports and calls."""
    tree = ast.parse(path.read_text())
    names = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    imported = (n for n in ast.walk(tree) if isinstance(n, (ast.Import, ast.ImportFrom)))
    return names | {ast.unparse(node) for node in imported}


def test_images_are_decoded_in_only_one_package() -> None:
    users = {
        path.relative_to(ROOT).as_posix()
        for package in ("pipeline", "scrapers")
        for path in sorted((ROOT / package).rglob("*.py"))
        if any("Image.open" in call or "kornia" in call for call in calls(path))
    }
    assert users == {f"pipeline/core/image_decode/{name}.py" for name in ("jpeg", "pillow", "png")}

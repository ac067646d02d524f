"""Images of an unfinished prompt are not drawn again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core.ownership import own_files
from pipeline.core.storage import read_manifest
from pipeline.core.workspace import Workspace
from pipeline.generate.config import GenerateConfig
from pipeline.generate.prompts import Order, Prompt
from pipeline.generate.run import run
from pipeline.generate.sampler import ImageSampler
from pipeline.generate.sketches import Drawn, read_sketches, remove_sketches, write_sketches

MakeConfig = Callable[..., GenerateConfig]


class KilledError(Exception):
    """Stands for the end of the process."""


def end_after(
    batches: int, ending: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> list[int]:
    """Let drawing end before another batch; returns the indices of the images that are drawn."""
    drawn: list[int] = []
    draw = ImageSampler.draw
    left = iter(range(batches))

    def some(sampler: ImageSampler, orders: Sequence[Order], watch: Any) -> object:
        if next(left, None) is None:
            raise ending
        drawn.extend(order.index for order in orders)
        return draw(sampler, orders, watch)

    monkeypatch.setattr(ImageSampler, "draw", some)
    return drawn


@pytest.fixture
def folder(workspace: Workspace) -> Path:
    return workspace.generated("default")


def assert_as_whole(workspace: Workspace, folder: Path) -> None:
    whole = read_manifest(workspace.generated("whole"), "generated")
    assert read_manifest(folder, "generated").files == whole.files
    assert not (folder / "sketches").exists()


@pytest.mark.parametrize("ending", [KeyboardInterrupt, KilledError])
def test_an_interrupted_prompt_resumes_where_it_was(
    workspace: Workspace,
    make_config: MakeConfig,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    ending: type[BaseException],
) -> None:
    """After a kill, behind what was last kept: here after every image."""
    monkeypatch.setattr(
        "pipeline.generate.writing.KEEP_EVERY_S", 0.0 if ending is KilledError else 1e9
    )
    options = {"prompts": ("a red cube", "a blue cube"), "num_images": 5, "batch_size": 2}
    run(make_config(name="whole", **options))
    with monkeypatch.context() as patch:
        drawn = end_after(4, ending, patch)
        with pytest.raises(ending):
            run(make_config(**options))
    assert drawn == [0, 1, 2, 3, 4, 0, 1, 2]
    assert [name for name in own_files(folder, "generated") if name.startswith("sketches/")] == [
        f"sketches/0001-0000{index}.npz" for index in range(3)
    ]
    drawn = end_after(10, ending, monkeypatch)
    run(make_config(**options))
    assert drawn == [3, 4]
    assert_as_whole(workspace, folder)


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "other"])
def test_a_damaged_sketch_is_drawn_again(
    workspace: Workspace,
    make_config: MakeConfig,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: str,
) -> None:
    options = {"prompts": ("a red cube",), "num_images": 5, "batch_size": 2}
    run(make_config(name="whole", **options))
    with monkeypatch.context() as patch:
        end_after(2, KeyboardInterrupt, patch)
        with pytest.raises(KeyboardInterrupt):
            run(make_config(**options))
    path = folder / "sketches/0000-00001.npz"
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(
        {
            "empty": b"",
            "cut": data[:-20],
            "flipped": data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :],
            "other": b"not a sketch",
        }[damage]
    )
    drawn = end_after(10, KeyboardInterrupt, monkeypatch)
    run(make_config(**options))
    assert drawn == [1, 4]
    assert_as_whole(workspace, folder)


def test_sketches_of_other_options_are_thrown_away(
    workspace: Workspace, make_config: MakeConfig, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"prompts": ("a red cube",), "num_images": 5, "batch_size": 2}
    with monkeypatch.context() as patch:
        end_after(2, KeyboardInterrupt, patch)
        with pytest.raises(KeyboardInterrupt):
            run(make_config(**options))
    drawn = end_after(10, KeyboardInterrupt, monkeypatch)
    run(make_config(seed=5, on_change="restart", **options))
    assert drawn == [0, 1, 2, 3, 4]
    assert not (folder / "sketches").exists()


@pytest.mark.parametrize("score", [None, 0.0, 0.25, -3.5])
def test_a_sketch_comes_back_with_its_pixels_and_its_score(
    score: float | None, tmp_path: Path
) -> None:
    order = Order(number=1, index=2, prompt=Prompt(text="a cube"), seed=3)
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    write_sketches(tmp_path, [Drawn(order=order, pixels_HWC=pixels, score=score)])
    (found,) = read_sketches(tmp_path, [order])
    assert (found.order, found.score) == (order, score)
    assert np.array_equal(found.pixels_HWC, pixels)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 3, 1)])
def test_a_sketch_that_is_no_image_is_drawn_again(shape: tuple[int, ...], tmp_path: Path) -> None:
    order = Order(number=0, index=0, prompt=Prompt(text="a cube"), seed=3)
    for pixels in (np.zeros(shape, np.uint8), np.zeros((4, 4, 3), np.float32)):
        remove_sketches(tmp_path, [order])
        write_sketches(tmp_path, [Drawn(order=order, pixels_HWC=pixels)])  # type: ignore[arg-type]
        assert read_sketches(tmp_path, [order]) == []

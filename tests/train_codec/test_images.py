"""The images that a codec learns from: as many as asked for, those that can't be decoded counted."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipeline.core.image_decode import DecodeError
from pipeline.core.workspace import Workspace
from pipeline.models.codecs.pixels import Pixels, read_square
from pipeline.train_codec.images import choose_images, load_images

MakeWorkspace = Callable[..., Workspace]


@pytest.mark.parametrize(("most", "found"), [(1, 1), (5, 5), (6, 6), (7, 6), (100, 6)])
def test_at_most_as_many_images_as_asked_for(
    most: int, found: int, make_workspace: MakeWorkspace
) -> None:
    workspace = make_workspace(7)  # one of them in val
    chosen = choose_images(workspace, "train", most)
    assert len(chosen) == found
    hashes = [image.pixel_sha256 for image in chosen]
    assert hashes == sorted(set(hashes))


def test_images_that_can_not_be_decoded_are_left_out_and_counted(
    make_workspace: MakeWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = make_workspace(7)  # one of them in val
    chosen = choose_images(workspace, "train", 6)
    whole = load_images(workspace.segments, chosen, side=16, workers=1)
    assert (whole.pixels_MHWC.shape, whole.failed) == ((6, 16, 16, 3), 0)
    bad = {1, 4}
    calls = iter(range(6))

    def read_some(data: bytes, side: int) -> Pixels:
        if next(calls) in bad:
            raise DecodeError("damaged")
        return read_square(data, side)

    monkeypatch.setattr("pipeline.train_codec.images.read_square", read_some)
    some = load_images(workspace.segments, chosen, side=16, workers=1)
    assert some.failed == 2
    expected = [whole.pixels_MHWC[n].tolist() for n in range(6) if n not in bad]
    assert some.pixels_MHWC.tolist() == expected

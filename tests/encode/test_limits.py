"""Codes fit 16 bits, are kept by all that decides them, and an image counts when all its views are there."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest
import torch

from pipeline.core.errors import ModelError
from pipeline.core.storage import file_entry, make_manifest, read_manifest, write_manifest
from pipeline.core.workspace import Workspace
from pipeline.encode.config import EncodeConfig
from pipeline.encode.run import recipe_digest, run
from pipeline.models.codecs.load import save_codec
from pipeline.models.codecs.precision import Precision
from pipeline.models.codecs.vq import VQCodec, VQConfig

MakeWorkspace = Callable[..., Workspace]


def write_codec(workspace: Workspace, tokens: int) -> None:
    folder = workspace.codec("small")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        codec = VQCodec(VQConfig(image_size=32, num_tokens=tokens, code_dim=1, channels=1))
    codec.codebook_KD.copy_(torch.linspace(-1, 1, tokens)[:, None])
    save_codec(codec, folder)
    files = tuple(file_entry(path, folder) for path in sorted(folder.iterdir()))
    write_manifest(folder, make_manifest("codec", config={}, inputs={}, counts={}, files=files))


@pytest.mark.parametrize("tokens", [65_535, 65_536])
def test_a_codebook_of_up_to_65_536_codes_is_encoded_with(
    tokens: int, make_workspace: MakeWorkspace
) -> None:
    workspace = make_workspace(3)
    write_codec(workspace, tokens)
    assert run(EncodeConfig(workspace=workspace.root, codec="small")).counts["encoded"] == 3


def test_a_larger_codebook_is_refused_and_nothing_written(make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace(3)
    write_codec(workspace, 65_537)
    with pytest.raises(ModelError, match=r"65537 codes, expected at most 65536"):
        run(EncodeConfig(workspace=workspace.root, codec="small"))
    assert not list((workspace.root / "codes").glob("*/*"))


def test_codes_are_kept_by_codec_and_precision() -> None:
    digests = {
        recipe_digest(fingerprint, precision)
        for fingerprint in ("a" * 64, "b" * 64)
        for precision in get_args(Precision)
    }
    assert len(digests) == 6
    # Codes of earlier versions are found by this: it never changes.
    assert recipe_digest("a" * 64, "fp32").startswith("82e90962113ead46")


def test_an_image_counts_as_encoded_when_all_its_views_are(make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace(4)
    write_codec(workspace, 16)
    config = EncodeConfig(workspace=workspace.root, codec="small", views="flip")
    report = run(config)
    assert report.counts == {"images": 4, "encoded": 4, "failed": 0, "spare": 0, "new": 4}
    (folder,) = (workspace.root / "codes").iterdir()
    assert read_manifest(folder, "codes").details["views"] == ["center", "flip"]


def test_an_image_that_lacks_a_view_has_failed(make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace(4)
    write_codec(workspace, 16)
    run(EncodeConfig(workspace=workspace.root, codec="small"))
    make_workspace(4, broken=(2,))
    report = run(EncodeConfig(workspace=workspace.root, codec="small", views="flip"))
    assert report.counts == {"images": 4, "encoded": 3, "failed": 1, "spare": 0, "new": 3}

"""Show one sample: caption, decoded ids, the original beside its decoded codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.core.errors import ConfigError
from pipeline.models.codecs.load import save_codec
from pipeline.models.codecs.pixels import read_square
from pipeline.models.codecs.reconstruct import reconstruct
from pipeline.models.codecs.vq import VQCodec, VQConfig
from pipeline.shard.config import ShardConfig
from pipeline.shard.run import run
from pipeline.webdata.reader import ShardReader
from tests.helpers.cli import run_command

SIDE, KEY = 64, "key_00000"


@pytest.fixture
def codec(world: Any) -> VQCodec:
    """A codec with random weights in the workspace; the world's codes are declared to be its own."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        codec = VQCodec(VQConfig(image_size=SIDE, num_tokens=512, code_dim=4, channels=4))
        codec.codebook_KD.copy_(torch.rand(512, 4))
    save_codec(codec, world.workspace.codec("tiny"))
    path = world.workspace.codes("tiny", "f" * 64) / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["details"]["codec"]["fingerprint"] = codec.fingerprint
    path.write_text(json.dumps(manifest))
    return codec


def configure(world: Any, **options: Any) -> ShardConfig:
    return ShardConfig(workspace=world.root, **{"text_seq_len": 24, "max_samples": 20, **options})


def images_of(path: Path, count: int) -> list[np.ndarray]:
    """The images of a sheet at their original size."""
    sheet = np.array(Image.open(path))
    assert sheet.shape == (256, count * 256 + (count - 1) * 8, 3)
    return [sheet[::4, start : start + 256 : 4] for start in range(0, count * 264, 264)]


@pytest.mark.parametrize("images", ["none", "original"])
def test_a_sample_is_shown_with_its_images(world: Any, codec: VQCodec, images: str) -> None:
    run(configure(world, images=images))
    report = run(configure(world, inspect=("val/000000", KEY)))
    shown = report.details["shown"]
    row = next(row for row in world.rows if row["key"] == KEY)
    assert shown["caption"] == shown["ids as text"] == row["caption"]
    assert shown["section"] == "solid_colors"
    assert report.outputs == (str(world.root / "inspect" / f"{KEY}.png"),)
    original, decoded = images_of(Path(report.outputs[0]), 2)
    segment = (world.workspace.segments / "00000.tar").read_bytes()
    data = segment[row["offset"] : row["offset"] + row["bytes"]]
    assert (original == read_square(data, SIDE)).all()
    reader = ShardReader(world.workspace.shards("default"), "val")
    codes = next(s.codes for s in map(reader.sample, range(len(reader))) if s.key == KEY)
    assert (decoded == reconstruct(codec, codes[None])[0]).all()
    assert shown["PSNR"].endswith(" dB")


def test_the_command_prints_it_and_writes_to_out(
    world: Any, codec: VQCodec, tmp_path: Path
) -> None:
    world.workspace.marker.parent.mkdir(exist_ok=True)
    run(configure(world))
    tar = world.workspace.shards("default") / "val/000000.tar"
    out = tmp_path / "look.png"
    result = run_command(
        ["shard", "--workspace", str(world.root), "--inspect", str(tar), KEY, "--out", str(out)],
    )
    assert result.exit_code == 0, result.output
    assert "ids as text: a red cube on a table, picture 0" in result.output
    assert str(out) in result.output.replace("\n", "")
    images_of(out, 2)


def test_every_view_has_its_image(world: Any, codec: VQCodec) -> None:
    fingerprint = codec.fingerprint
    world.views = ("center", "flip")
    world.save()
    path = world.workspace.codes("tiny", "f" * 64) / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["details"]["codec"]["fingerprint"] = fingerprint
    path.write_text(json.dumps(manifest))
    run(configure(world))
    report = run(configure(world, inspect=("val/000000", KEY)))
    _, first, second = images_of(Path(report.outputs[0]), 3)
    assert (first != second).any()


def test_without_the_original_only_the_codes_are_shown(world: Any, codec: VQCodec) -> None:
    run(configure(world))
    (world.workspace.dedupe / "manifest.json").unlink()
    report = run(configure(world, inspect=("val/000000", KEY)))
    assert "PSNR" not in report.details["shown"]
    images_of(Path(report.outputs[0]), 1)


def test_without_the_codec_the_text_is_shown(world: Any) -> None:
    run(configure(world))
    report = run(configure(world, inspect=("val/000000", KEY)))
    assert report.outputs == ()
    assert report.details["shown"]["image"].startswith("none: ")
    assert report.details["shown"]["caption"].startswith("a red cube")


@pytest.mark.parametrize(
    ("shard", "key", "said"),
    [
        ("train/000099", KEY, "No shard 'train/000099'"),
        ("/etc/passwd", KEY, "No shard"),
        ("train/000000", "nobody", "train/000000.tar has no sample 'nobody'"),
    ],
)
def test_missing_shards_and_keys_are_explained(world: Any, shard: str, key: str, said: str) -> None:
    run(configure(world))
    with pytest.raises(ConfigError, match=said):
        run(configure(world, inspect=(shard, key)))


def test_inspecting_changes_no_shard(world: Any, codec: VQCodec) -> None:
    run(configure(world))
    before = world.shard_bytes()
    run(configure(world, inspect=("train/000000", read_first(world))))
    assert world.shard_bytes() == before
    assert run(configure(world)).outcome == "unchanged"


def read_first(world: Any) -> str:
    return ShardReader(world.workspace.shards("default"), "train").sample(0).key

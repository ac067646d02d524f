"""Encoding: precision and its measured cost, batches that don't fit in memory, compiling, views."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor

from pipeline.core.errors import ConfigError, ModelError
from pipeline.core.image_decode import decode_image
from pipeline.core.storage import read_manifest
from pipeline.core.workspace import Workspace
from pipeline.encode import precision_cost
from pipeline.encode.encoder import Encoder, pick_batch_size, should_compile
from pipeline.encode.precision_cost import switch_precision
from pipeline.encode.run import run
from pipeline.models.codecs.base import Codec
from pipeline.models.codecs.load import load_codec
from pipeline.models.codecs.pixels import (
    VIEWS,
    Pixels,
    cut_views,
    read_square,
    to_images,
    to_pixels,
)
from pipeline.models.codecs.precision import pick_precision, use_precision
from pipeline.models.codecs.reconstruct import psnr
from pipeline.models.codecs.vqgan import VQGAN, NearestEntries, VQGANConfig
from tests.encode.test_run import (
    KilledError,
    codec,
    codes_folder,
    files_of,
    kill_at,
    make_config,
)
from tests.helpers.kept_workspace import make_png

__all__ = ["codec"]

MakeWorkspace = Callable[..., Workspace]


@pytest.fixture(scope="module")
def vqgan() -> VQGAN:
    """A small VQGAN with random weights whose codebook matches its latents."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = VQGAN(
            VQGANConfig(
                num_tokens=64,
                code_dim=8,
                channels=32,
                multipliers=(1, 2),
                blocks=1,
                attention_sizes=(16,),
                training_size=32,
                latents=16,
                image_size=32,
            )
        )
        latents_BDRS = made.encode_latents(torch.rand(8, 3, 32, 32)).detach()
        latents_XD = latents_BDRS.permute(0, 2, 3, 1).flatten(0, 2)
        picked_X = torch.randperm(len(latents_XD))[:64]
        assert isinstance(made.quantize, NearestEntries)
        made.quantize.embedding.weight.data = latents_XD[picked_X].contiguous()
    return made.requires_grad_(False).eval()


def noise(count: int, side: int = 32) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


class Faulty:
    """Stands for a codec on a device: raises `fault` for more than `room` images at once."""

    def __init__(self, codec: Codec, room: int, fault: Exception) -> None:
        self.encode_well, self.room, self.fault = codec.encode, room, fault
        self.asked: list[int] = []

    def __call__(self, images_BCHW: Tensor) -> Tensor:
        self.asked.append(len(images_BCHW))
        if len(images_BCHW) > self.room:
            raise self.fault
        return self.encode_well(images_BCHW)


# --- Room ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp] . DefaultCPUAllocator: can't allocate memory"
        ),
    ],
    ids=["cuda", "cpu"],
)
def test_a_batch_that_does_not_fit_is_halved_with_a_warning(
    vqgan: VQGAN,
    fault: Exception,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pixels_BHWC = noise(11)
    expected_BN = Encoder(vqgan, 11).encode(pixels_BHWC)
    faulty = Faulty(vqgan, 2, fault)
    monkeypatch.setattr(vqgan, "encode", faulty)
    encoder = Encoder(vqgan, 8)
    assert torch.equal(encoder.encode(pixels_BHWC), expected_BN)
    assert faulty.asked == [8, 4, 2, 2, 2, 2, 2, 1]
    assert encoder.batch_size == 2
    assert "not have the memory for 8 images at once: continuing with 4" in caplog.text
    assert "not have the memory for 4 images at once: continuing with 2" in caplog.text


def test_no_room_for_one_image_ends_the_stage(
    vqgan: VQGAN, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = torch.OutOfMemoryError("CUDA out of memory")
    monkeypatch.setattr(vqgan, "encode", Faulty(vqgan, 0, fault))
    with pytest.raises(ModelError, match="not have the memory to encode one image of 32 pixels"):
        Encoder(vqgan, 4).encode(noise(3))


def test_other_errors_are_not_taken_for_it(vqgan: VQGAN, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vqgan, "encode", Faulty(vqgan, 0, RuntimeError("a shape is wrong")))
    with pytest.raises(RuntimeError, match="a shape is wrong"):
        Encoder(vqgan, 4).encode(noise(3))


def test_a_gpu_that_fails_is_not_taken_for_a_compiler_that_does(
    vqgan: VQGAN, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fault = RuntimeError("CUDA error: unspecified launch failure")
    monkeypatch.setattr(vqgan, "encode", faulty := Faulty(vqgan, 0, fault))
    encoder = Encoder(vqgan, 4)
    encoder.compile("eager")
    try:
        with pytest.raises(RuntimeError, match="launch failure"):
            encoder.encode(noise(3))
    finally:
        vqgan.trunk._compiled_call_impl = None
    assert faulty.asked == [4]
    assert not caplog.text


def test_a_gpu_that_fails_leaves_the_codes_that_are_written(
    make_workspace: MakeWorkspace, codec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, encode = make_workspace(), Encoder.encode
    config, calls = make_config(workspace, codec, batch_size="2"), itertools.count()

    def encode_some(encoder: Encoder, pixels_BHWC: Pixels) -> Tensor:
        if next(calls) == 5:
            raise RuntimeError("CUDA error: unspecified launch failure")
        return encode(encoder, pixels_BHWC)

    monkeypatch.setattr(Encoder, "encode", encode_some)
    with pytest.raises(ModelError, match="The codes written so far are kept: the same command"):
        run(config)
    assert 0 < run(config).counts["new"] < 20


def test_the_stage_continues_with_less_room(
    make_workspace: MakeWorkspace,
    codec: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, narrow = make_workspace(name="whole"), make_workspace(name="narrow")
    run(make_config(whole, codec))
    tried: list[int] = []
    encode = Encoder._try

    def try_small(self: Encoder, pixels_BHWC: Pixels) -> Tensor | None:
        tried.append(len(pixels_BHWC))
        return encode(self, pixels_BHWC) if len(pixels_BHWC) <= 1 else None

    monkeypatch.setattr(Encoder, "_try", try_small)
    run(make_config(narrow, codec))
    assert tried[:3] == [4, 2, 1]
    assert files_of(codes_folder(narrow)) == files_of(codes_folder(whole))


def test_batches_follow_the_widest_layer(vqgan: VQGAN) -> None:
    assert vqgan.widest_layer == 32 * 32 * 32
    assert pick_batch_size("auto", vqgan) == 64
    assert pick_batch_size("3", vqgan) == 3
    with torch.device("meta"):
        published = VQGAN(
            VQGANConfig(
                num_tokens=1024,
                code_dim=256,
                channels=128,
                multipliers=(1, 1, 2, 2, 4),
                blocks=2,
                attention_sizes=(16,),
                training_size=256,
                latents=256,
                image_size=256,
            )
        )
    assert pick_batch_size("auto", published) == 1


# --- Compiling -----------------------------------------------------------------------------------


def test_compiling_pays_on_cuda_for_many_images() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert should_compile("auto", 10**6, cuda)
    assert not should_compile("auto", 10, cuda)
    assert not should_compile("auto", 10**6, cpu)
    assert should_compile("on", 1, cpu)
    assert not should_compile("off", 10**6, cuda)


def test_what_cannot_be_compiled_runs_as_it_is(
    vqgan: VQGAN, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(**_: Any) -> None:
        def call(*_: Any) -> None:
            raise RuntimeError("no compiler here\nand a long story")

        vqgan.trunk._compiled_call_impl = call

    pixels_BHWC = noise(3)
    expected_BN = Encoder(vqgan, 4).encode(pixels_BHWC)
    monkeypatch.setattr(vqgan.trunk, "compile", refuse)
    encoder = Encoder(vqgan, 4)
    encoder.compile()
    assert torch.equal(encoder.encode(pixels_BHWC), expected_BN)
    assert "can't be compiled (no compiler here): running it uncompiled" in caplog.text


@pytest.mark.slow
def test_compiled_codes_are_the_same(vqgan: VQGAN, caplog: pytest.LogCaptureFixture) -> None:
    pixels_BHWC = noise(3)
    expected_BN = Encoder(vqgan, 4).encode(pixels_BHWC)
    encoder = Encoder(vqgan, 4)
    encoder.compile()
    try:
        assert (encoder.encode(pixels_BHWC) == expected_BN).float().mean() > 0.99
    finally:
        vqgan.trunk._compiled_call_impl = None
    assert "can't be compiled" not in caplog.text


# --- Precision -----------------------------------------------------------------------------------


def test_auto_is_exact_on_a_cpu_and_fast_on_cuda() -> None:
    assert pick_precision("auto", torch.device("cpu")) == "fp32"
    assert pick_precision("auto", torch.device("cuda")) == "bf16"
    assert pick_precision("tf32", torch.device("cuda")) == "tf32"
    with pytest.raises(ConfigError, match="supported only on CUDA"):
        pick_precision("tf32", torch.device("cpu"))


def test_only_the_trunk_computes_in_lower_precision(vqgan: VQGAN) -> None:
    try:
        use_precision(vqgan, "bf16")
        assert next(vqgan.encoder.parameters()).dtype == torch.bfloat16
        for part in (vqgan.quant_conv, vqgan.quantize, vqgan.post_quant_conv, vqgan.decoder):
            assert {p.dtype for p in part.parameters()} == {torch.float32}
        assert vqgan.encode_latents(torch.rand(1, 3, 32, 32)).dtype == torch.float32
    finally:
        use_precision(vqgan, "fp32")


def test_its_cost_is_what_a_comparison_by_hand_gives(
    vqgan: VQGAN, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels_BHWC = noise(4)
    exact_BN = Encoder(vqgan, 4).encode(pixels_BHWC)
    half_N = torch.arange(exact_BN.shape[1]) % 2 == 0
    spoiled_BN = torch.where(
        half_N, 0, exact_BN
    )  # as if rounding had turned every other code into 0
    parts = iter(spoiled_BN.split(1))

    def spoil(codec: Codec, precision: str) -> None:
        if precision == "bf16":
            monkeypatch.setattr(codec, "encode", lambda _: next(parts))

    monkeypatch.setattr(precision_cost, "use_precision", spoil)
    found = switch_precision(vqgan, "bf16", pixels_BHWC)
    changed = (spoiled_BN != exact_BN).float().mean().item()
    decoded = [to_pixels(vqgan.decode(codes_BN)) for codes_BN in (exact_BN, spoiled_BN)]
    exact_db, spoiled_db = (np.mean(psnr(pixels_BHWC, pixels)) for pixels in decoded)
    assert found.changed_codes == pytest.approx(changed, abs=1e-4)
    assert found.psnr_loss_db == pytest.approx(float(exact_db - spoiled_db), abs=0.01)
    assert (found.images, found.changed_codes > 0.3) == (4, True)


def test_bf16_changes_few_codes_and_says_how_many(
    make_workspace: MakeWorkspace, codec: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workspace = make_workspace()
    run(make_config(workspace, codec))
    run(make_config(workspace, codec, precision="bf16"))
    found = {
        manifest.details["precision"]: manifest.details
        for folder in (workspace.root / "codes").iterdir()
        for manifest in [read_manifest(folder, "codes")]
    }
    assert found["fp32"]["price"] is None
    assert found["fp32"]["fingerprint"] != found["bf16"]["fingerprint"]
    assert found["fp32"]["codec"] == found["bf16"]["codec"]
    price = found["bf16"]["price"]
    assert price["images"] == 8
    assert 0 <= price["changed_codes"] < 0.2
    assert abs(price["psnr_loss_db"]) < 1
    assert "bf16 changes" in caplog.text


def test_a_killed_run_in_bf16_ends_in_the_same_bytes(
    make_workspace: MakeWorkspace, codec: Path
) -> None:
    whole, killed = make_workspace(name="whole"), make_workspace(name="killed")
    run(make_config(whole, codec, precision="bf16"))
    with pytest.raises(KilledError):
        run(make_config(killed, codec, precision="bf16"), kill_at(9))
    run(make_config(killed, codec, precision="bf16"))
    assert files_of(codes_folder(killed)) == files_of(codes_folder(whole))


def test_without_images_there_is_no_cost_to_measure(
    make_workspace: MakeWorkspace, codec: Path
) -> None:
    workspace = make_workspace(0)
    assert run(make_config(workspace, codec, precision="bf16")).outcome == "done"


# --- Views ---------------------------------------------------------------------------------------


def gradient() -> Image.Image:
    """48 × 36 pixels, each of another colour."""
    rows, columns = np.mgrid[0:36, 0:48]
    return Image.fromarray(np.stack([rows * 7, columns * 5, rows + columns], -1).astype(np.uint8))


def png(image: Image.Image, path: Path) -> bytes:
    image.save(path / "image.png")
    return (path / "image.png").read_bytes()


def test_views_are_the_centre_corners_and_mirror_images(tmp_path: Path) -> None:
    data = png(gradient(), tmp_path)
    names = VIEWS["ten-crop"]
    views = dict(zip(names, cut_views(decode_image(data).pixels_HWC, 32, names), strict=True))
    assert len(views) == 10
    assert (views["center"] == read_square(data, 32)).all()
    for name in names:
        if not name.endswith("flip"):
            mirrored = "flip" if name == "center" else f"{name}_flip"
            assert (views[mirrored] == views[name][:, ::-1]).all()
    zoomed = np.array(gradient().resize((47, 35), Image.Resampling.BICUBIC))
    assert (views["top_left"] == zoomed[:32, :32]).all()
    assert (views["bottom_right"] == zoomed[-32:, -32:]).all()
    assert (views["top_right"] == zoomed[:32, -32:]).all()
    assert (views["bottom_left"] == zoomed[-32:, :32]).all()


def test_a_small_image_has_its_views_too(tmp_path: Path) -> None:
    data = png(gradient().resize((5, 3)), tmp_path)
    assert cut_views(decode_image(data).pixels_HWC, 32, VIEWS["ten-crop"]).shape == (10, 32, 32, 3)


def rows_of(workspace: Workspace) -> list[dict[str, Any]]:
    folder = codes_folder(workspace)
    names = [entry.path for entry in read_manifest(folder, "codes").files]
    return [row for name in names for row in pq.read_table(folder / name).to_pylist()]


def test_each_view_is_a_row_of_the_same_image(make_workspace: MakeWorkspace, codec: Path) -> None:
    workspace = make_workspace(7)
    report = run(make_config(workspace, codec, views="ten-crop"))
    assert report.counts["images"] == report.counts["encoded"] == report.counts["new"] == 7
    rows = rows_of(workspace)
    assert len(rows) == 70
    assert len({(row["pixel_sha256"], row["view"]) for row in rows}) == 70
    assert {row["view"] for row in rows} == set(VIEWS["ten-crop"])
    keys = [(row["pixel_sha256"], row["view"]) for row in rows]
    assert keys == sorted(keys)


def test_views_asked_for_later_are_added_and_no_part_is_changed(
    make_workspace: MakeWorkspace, codec: Path
) -> None:
    workspace = make_workspace(7)
    run(make_config(workspace, codec))
    before = files_of(codes_folder(workspace))
    report = run(make_config(workspace, codec, views="flip"))
    assert (report.outcome, report.counts["encoded"], report.counts["new"]) == ("done", 7, 7)
    rows = rows_of(workspace)
    assert len(rows) == len({(row["pixel_sha256"], row["view"]) for row in rows}) == 14
    after = files_of(codes_folder(workspace))
    assert all(after[name] == data for name, data in before.items() if name != "manifest.json")
    assert run(make_config(workspace, codec, views="flip")).outcome == "unchanged"


def test_a_killed_run_with_views_ends_in_the_same_bytes(
    make_workspace: MakeWorkspace, codec: Path
) -> None:
    whole = make_workspace(name="whole", broken=(3,))
    killed = make_workspace(name="killed", broken=(3,))
    run(make_config(whole, codec, views="flip"))
    with pytest.raises(KilledError):
        run(make_config(killed, codec, views="flip"), kill_at(9))
    run(make_config(killed, codec, views="flip"))
    assert files_of(codes_folder(killed)) == files_of(codes_folder(whole))
    failed = (codes_folder(whole) / "failed.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in failed] == ["key_00003"]


def test_mirrored_codes_are_those_of_the_mirrored_image(
    make_workspace: MakeWorkspace, codec: Path, tmp_path: Path
) -> None:
    workspace = make_workspace(1)
    run(make_config(workspace, codec, views="flip"))
    rows = {row["view"]: row["codes"] for row in rows_of(workspace)}
    square = read_square(make_png(0), 32)
    mirrored = np.ascontiguousarray(square[:, ::-1])
    found = load_codec(codec).encode(to_images(np.stack([square, mirrored])))
    assert [rows["center"], rows["flip"]] == found.tolist()


@pytest.mark.parametrize(("images", "pays"), [(4999, False), (5000, True), (5001, True)])
def test_compiling_pays_from_5000_images(images: int, pays: bool) -> None:
    assert should_compile("auto", images, torch.device("cuda")) is pays

"""Beyond prompts: primed images, completed captions, ranking by CLIP, guidance, too little memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.core.errors import ConfigError, ModelError
from pipeline.core.storage import input_digest, read_manifest
from pipeline.core.workspace import Workspace
from pipeline.generate import sampler
from pipeline.generate.config import GenerateConfig
from pipeline.generate.prompts import Order
from pipeline.generate.run import run
from pipeline.generate.sampler import ImageSampler
from pipeline.models.clip import find_clip, load_clip
from pipeline.models.codecs.load import load_codec
from pipeline.models.codecs.pixels import read_square, to_images
from pipeline.models.codecs.vq import VQCodec
from pipeline.models.dalle.model import Dalle
from pipeline.models.dalle.sampling import Choice
from pipeline.models.dalle.static_decoder import FixedShapes
from tests.generate.images import hashes_by_prompt, records_of
from tests.oracles.clip import write_clip

MakeConfig = Callable[..., GenerateConfig]


# --- Primed images -----------------------------------------------------------------------------


@pytest.fixture
def image_file(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(4).integers(0, 256, (80, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "prime.png")
    return tmp_path / "prime.png"


def drawn_codes(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The codes of every batch that is decoded from now on."""
    seen: list[torch.Tensor] = []
    decode = VQCodec.decode

    def look_and_decode(codec: VQCodec, codes_BN: torch.Tensor) -> torch.Tensor:
        seen.append(codes_BN)
        return decode(codec, codes_BN)

    monkeypatch.setattr(VQCodec, "decode", look_and_decode)
    return seen


@pytest.mark.parametrize(("rows", "given"), [(None, 7), (1, 4), (3, 12)])
def test_every_image_starts_with_the_codes_of_the_one_given(
    rows: int | None,
    given: int,
    workspace: Workspace,
    make_config: MakeConfig,
    image_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    codec = load_codec(workspace.codec("mine"))
    codes_1N = codec.encode(to_images(read_square(image_file.read_bytes(), 64)[None]))
    seen = drawn_codes(workspace, monkeypatch)
    run(make_config(prime=image_file, prime_rows=rows))
    (codes_BN,) = seen
    assert torch.equal(codes_BN[:, :given], codes_1N[:, :given].expand(6, -1))
    assert len({tuple(row) for row in codes_BN[:, given:].tolist()}) > 1


def test_another_image_to_start_with_draws_new_images(
    make_config: MakeConfig, image_file: Path
) -> None:
    assert run(make_config(prime=image_file)).outcome == "done"
    assert run(make_config(prime=image_file)).outcome == "unchanged"
    Image.new("RGB", (64, 64), "red").save(image_file)
    assert run(make_config(prime=image_file)).outcome == "done"


def test_an_image_that_leaves_nothing_to_draw_is_refused(
    make_config: MakeConfig, image_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"--prime-rows 4 leaves nothing to draw: .* 4 rows"):
        run(make_config(prime=image_file, prime_rows=4))
    with pytest.raises(ConfigError, match=r"nothing\.png is missing"):
        run(make_config(prime=tmp_path / "nothing.png"))
    image_file.write_bytes(image_file.read_bytes()[:100])
    with pytest.raises(ConfigError, match=r"prime\.png can't be read"):
        run(make_config(prime=image_file))


# --- Guidance, precision -------------------------------------------------------------------------


def test_guidance_draws_other_images_the_same_in_any_batch(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    run(make_config())
    run(make_config(name="guided", cond_scale=4.0))
    run(make_config(name="small", cond_scale=4.0, batch_size=1))
    guided = hashes_by_prompt(workspace, "guided")
    assert guided == hashes_by_prompt(workspace, "small")
    assert guided != hashes_by_prompt(workspace)


def test_half_precision_draws(workspace: Workspace, make_config: MakeConfig) -> None:
    run(make_config(precision="bf16"))
    assert {record["precision"] for record in records_of(workspace)} == {"bf16"}


# --- Captions ------------------------------------------------------------------------------------


def test_a_completed_caption_is_drawn_and_says_what_it_was_made_from(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    run(make_config(gentxt=True, prompts=("a red",), num_images=2))
    first, second = records_of(workspace)
    assert first["given"] == second["given"] == "a red"
    assert first["prompt"] == second["prompt"]
    assert first["prompt"].startswith("a red")
    assert len(first["prompt"]) > len("a red")
    image = Image.open(workspace.generated("default") / first["file"])
    assert image.info["given"] == "a red"
    run(make_config(name="again", prompts=(first["prompt"],), num_images=2))
    assert hashes_by_prompt(workspace, "again") == hashes_by_prompt(workspace)


def test_the_model_finds_a_caption_where_none_is_given(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    run(make_config(gentxt=True, prompts=(), num_images=1))
    (record,) = records_of(workspace)
    assert record["given"] == ""
    assert record["prompt"]


def test_a_prompt_that_is_too_long_is_cut_reported_and_counted(
    workspace: Workspace, make_config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    long = "a red cube on a blue cube on a red cube"
    with caplog.at_level(logging.WARNING):
        report = run(make_config(prompts=("a red cube", long), num_images=1))
    assert report.counts["prompts_cut"] == 1
    assert "1 of 2 prompts are longer than the model's 6 tokens" in caplog.text
    assert long in caplog.text


# --- CLIP ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_clip(tmp_path_factory.mktemp("clip")))


def test_the_best_by_clip_are_kept_in_the_order_of_their_scores(
    workspace: Workspace, make_config: MakeConfig, clip: str
) -> None:
    run(make_config(name="all", num_images=9))
    report = run(make_config(num_images=1, clip=clip, best=2, of=9, batch_size=4))
    assert report.counts == {
        "images": 18,
        "written": 4,
        "outranked": 14,
        "failed": 0,
        "prompts": 2,
        "prompts_cut": 0,
    }
    judge = load_clip(find_clip(clip), torch.device("cpu"))
    scores: dict[str, list[float]] = {}
    for record in records_of(workspace, "all"):
        pixels = np.asarray(Image.open(workspace.generated("all") / record["file"]))[None]
        scores.setdefault(record["prompt"], []).append(judge.score([record["prompt"]], pixels)[0])
    expected = {prompt: sorted(found, reverse=True)[:2] for prompt, found in scores.items()}
    kept = records_of(workspace)
    assert [record["file"] for record in kept] == [
        "0000-00.png",
        "0000-01.png",
        "0001-00.png",
        "0001-01.png",
    ]
    for record in kept:
        score = expected[record["prompt"]][record["rank"]]
        assert record["clip_score"] == pytest.approx(score, abs=1e-3)
        assert scores[record["prompt"]][record["index"]] == pytest.approx(score, abs=1e-3)
        png = Image.open(workspace.generated("default") / record["file"])
        assert float(png.info["clip_score"]) == record["clip_score"]
    drawn = hashes_by_prompt(workspace, "all")
    assert all(drawn[key] == value for key, value in hashes_by_prompt(workspace).items())


def test_clip_alone_orders_all_images(
    workspace: Workspace, make_config: MakeConfig, clip: str
) -> None:
    run(make_config(clip=clip))
    for prompt in ("a red cube", "a blue cube"):
        found = [r["clip_score"] for r in records_of(workspace) if r["prompt"] == prompt]
        assert found == sorted(found, reverse=True)
        assert len(found) == 3


def test_another_clip_chooses_again(make_config: MakeConfig, clip: str, tmp_path: Path) -> None:
    other = str(write_clip(tmp_path / "other", seed=1))
    assert run(make_config(clip=clip)).outcome == "done"
    assert run(make_config(clip=clip, batch_size=1)).outcome == "unchanged"
    assert run(make_config(clip=other)).outcome == "done"


# --- Memory, kills -------------------------------------------------------------------------------


def test_too_little_memory_halves_the_batch_and_changes_no_image(
    workspace: Workspace,
    make_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run(make_config())
    decode = VQCodec.decode

    def decode_few(codec: VQCodec, codes_BN: torch.Tensor) -> torch.Tensor:
        if len(codes_BN) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return decode(codec, codes_BN)

    monkeypatch.setattr(VQCodec, "decode", decode_few)
    with caplog.at_level(logging.WARNING):
        run(make_config(name="few"))
    assert "Out of memory with 6 images at once; trying 3." in caplog.text
    assert "Out of memory with 3 images at once; trying 1." in caplog.text
    assert hashes_by_prompt(workspace, "few") == hashes_by_prompt(workspace)


@pytest.mark.parametrize("prime_rows", [None, 1])
@pytest.mark.parametrize("fixed", [False, True])
def test_what_is_drawn_when_memory_runs_out_is_not_drawn_again(
    prime_rows: int | None,
    fixed: bool,
    image_file: Path,
    workspace: Workspace,
    make_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A made-up device has room for 3 images from the 7th code of the first batch on."""
    options: dict[str, Any] = {"prime": image_file, "prime_rows": 1} if prime_rows else {}
    run(make_config(name="whole", **options))
    draw = Choice.draw
    drawn: list[int] = []

    def draw_few(choice: Choice, logits_BV: torch.Tensor, *args: Any, **more: Any) -> torch.Tensor:
        if len(drawn) >= 6 and len(logits_BV) > 4:  # 3 images are filled up to 4 rows
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        drawn.append(len(logits_BV))
        return draw(choice, logits_BV, *args, **more)

    load = sampler.load_sampler

    def load_fixed(*arguments: Any) -> ImageSampler:
        loaded = load(*arguments)
        loaded.fixed = FixedShapes() if fixed else None
        return loaded

    monkeypatch.setattr(Choice, "draw", draw_few)
    monkeypatch.setattr("pipeline.generate.run.load_sampler", load_fixed)
    with caplog.at_level(logging.WARNING):
        run(make_config(name="few", **options))
    assert "Out of memory with 6 images at once; trying 3." in caplog.text
    rest = 16 - (4 if prime_rows else 0) - 6
    assert drawn == [6] * 6 + [4] * rest + [4] * rest
    assert hashes_by_prompt(workspace, "few") == hashes_by_prompt(workspace, "whole")


def test_later_batches_are_as_small_as_memory_allows(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, tried = Dalle.start_images, []

    def start_few(model: Dalle, tokens_BT: torch.Tensor, *args: Any, **more: Any) -> Any:
        tried.append(len(tokens_BT))
        if len(tokens_BT) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return start(model, tokens_BT, *args, **more)

    monkeypatch.setattr(Dalle, "start_images", start_few)
    prompts = tuple(f"a red cube {n}" for n in range(9))
    run(make_config(prompts=prompts, num_images=1, batch_size=4))
    assert tried == [4, 2, 2, 2, 2, 1]


def test_images_are_decoded_a_few_at_once(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, sizes = VQCodec.decode, []

    def watch(codec: VQCodec, codes_BN: torch.Tensor) -> torch.Tensor:
        sizes.append(len(codes_BN))
        return decode(codec, codes_BN)

    monkeypatch.setattr(VQCodec, "decode", watch)
    run(make_config(num_images=50, batch_size=100))
    assert sizes == [64, 36]


def test_too_little_memory_for_a_single_image_is_reported(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_options: object) -> None:
        raise RuntimeError(
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        )

    monkeypatch.setattr(Dalle, "start_images", refuse)
    with pytest.raises(ModelError, match="Out of memory with a single image"):
        run(make_config())


def test_another_error_is_not_taken_for_lack_of_memory(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object, **_options: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(Dalle, "start_images", fail)
    with pytest.raises(RuntimeError, match="mat1"):
        run(make_config())


def test_a_gpu_that_fails_leaves_the_images_that_are_written(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(prompts=("a red cube", "a blue cube"), batch_size=3)
    draw, drawn = ImageSampler.draw, list[int]()

    def draw_once(sampler: ImageSampler, orders: Sequence[Order], *more: Any) -> object:
        if drawn:
            raise RuntimeError("CUDA error: unspecified launch failure\nmore")
        drawn.append(len(orders))
        return draw(sampler, orders, *more)

    with monkeypatch.context() as patch:
        patch.setattr(ImageSampler, "draw", draw_once)
        with pytest.raises(ModelError, match="unspecified launch failure") as error:
            run(config)
    assert "The images written so far are kept: the same command resumes" in str(error.value)
    assert run(config).counts["written"] == 2 * drawn[0]


@pytest.mark.parametrize("torn", [False, True])
def test_a_killed_run_resumes_and_ends_in_the_same_bytes(
    torn: bool, workspace: Workspace, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = ("a red cube", "a blue cube", "a red cube on a blue cube")
    config = make_config(prompts=prompts, batch_size=3)
    run(make_config(prompts=prompts, batch_size=3, name="whole"))
    draw = ImageSampler.draw
    drawn: list[int] = []

    def draw_two_batches(sampler: ImageSampler, orders: Sequence[Order], *more: Any) -> object:
        if len(drawn) == 2:
            raise KeyboardInterrupt
        drawn.append(len(orders))
        return draw(sampler, orders, *more)

    monkeypatch.setattr(ImageSampler, "draw", draw_two_batches)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    folder = workspace.generated("default")
    assert not (folder / "manifest.json").exists()
    if torn:
        with (folder / "unfinished.jsonl").open("ab") as file:
            file.write(b'[{"file": "0001-00.p')
    drawn.clear()
    run(config)
    assert drawn == [3]  # the third prompt's images
    assert not (folder / "unfinished.jsonl").exists()
    whole = read_manifest(workspace.generated("whole"), "generated")
    assert read_manifest(folder, "generated").files == whole.files
    assert input_digest(folder) == input_digest(workspace.generated("whole"))

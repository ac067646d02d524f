"""How an image is drawn follows the options: precision, codes to begin with, choice of codes, seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.core.errors import ConfigError
from pipeline.core.workspace import Workspace
from pipeline.generate.config import GenerateConfig
from pipeline.generate.inputs import find_model_inputs
from pipeline.generate.prompts import Prompt
from pipeline.generate.run import run
from pipeline.generate.sampler import (
    ImageSampler,
    fitting_images,
    image_bytes,
    load_sampler,
    pick_precision,
    should_compile,
)
from pipeline.models.codecs.load import load_codec
from pipeline.models.codecs.pixels import read_square, to_images
from pipeline.models.dalle.sampling import Choice

ROWS = COLUMNS = 4  # of codes, of the tiny codec
TEXT_SEQ_LEN = 6  # of the tiny run

MakeSampler = Callable[..., ImageSampler]


@pytest.fixture
def make_sampler(make_config: Callable[..., GenerateConfig], workspace: Workspace) -> MakeSampler:
    def make(**options: object) -> ImageSampler:
        config = make_config(**options)
        return load_sampler(config, find_model_inputs(config, workspace))

    return make


@pytest.fixture
def prime(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(4).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "prime.png")
    return tmp_path / "prime.png"


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_the_transformer_has_the_precision_asked_for_and_the_codec_keeps_its_own(
    precision: str, dtype: torch.dtype, make_sampler: MakeSampler
) -> None:
    sampler = make_sampler(precision=precision)
    assert {p.dtype for p in sampler.model.parameters()} == {dtype}
    codec = sampler.codec.decode(torch.zeros(1, ROWS * COLUMNS, dtype=torch.int64))
    assert codec.dtype == torch.float32


@pytest.mark.parametrize(
    ("rows", "codes"), [(None, 7), (1, COLUMNS), (2, 2 * COLUMNS), (ROWS - 1, 3 * COLUMNS)]
)
def test_exactly_the_rows_asked_for_are_taken_from_the_image(
    rows: int | None, codes: int, make_sampler: MakeSampler, prime: Path, workspace: Workspace
) -> None:
    first_codes_P = make_sampler(prime=prime, prime_rows=rows).first_codes_P
    codec = load_codec(workspace.codec("mine"))
    codes_1N = codec.encode(to_images(read_square(prime.read_bytes(), 64)[None]))
    assert first_codes_P is not None
    assert first_codes_P.tolist() == codes_1N[0, :codes].tolist()


@pytest.mark.parametrize("rows", [ROWS, ROWS + 1])
def test_rows_that_leave_nothing_to_draw_are_refused(
    rows: int, make_sampler: MakeSampler, prime: Path
) -> None:
    with pytest.raises(ConfigError, match=f"--prime-rows {rows} leaves nothing to draw"):
        make_sampler(prime=prime, prime_rows=rows)


def test_codes_are_chosen_as_the_options_say(make_sampler: MakeSampler) -> None:
    sampler = make_sampler(top_k=0.75, temperature=0.5, cond_scale=3.0)
    assert sampler.choice == Choice(filter_thres=0.75, temperature=0.5, cond_scale=3.0)


def test_a_prompt_is_completed_by_the_seed(make_sampler: MakeSampler) -> None:
    options = {"gentxt": True, "top_k": 0.0, "temperature": 2.0}
    texts = [
        make_sampler(seed=seed, **options).complete(["a red"])[0].text for seed in (0, 1, 2, 0)
    ]
    assert texts[0] == texts[3]
    assert len(set(texts)) > 1


def test_a_prompt_is_too_long_from_one_token_more_than_the_model_reads(
    make_sampler: MakeSampler,
) -> None:
    sampler = make_sampler()
    words = ["a red cube", *("a red cube" + " a" * more for more in range(1, 8))]
    lengths = [len(ids) for ids in sampler.tokenizer.ids(words)]
    assert {TEXT_SEQ_LEN - 1, TEXT_SEQ_LEN, TEXT_SEQ_LEN + 1} <= set(lengths)
    found = sampler.too_long([Prompt(text=text) for text in words])
    assert found == [length > TEXT_SEQ_LEN for length in lengths]


# --- Defaults by device --------------------------------------------------------------------------


def test_a_cpu_draws_32_images_at_once_in_float32(make_sampler: MakeSampler) -> None:
    sampler = make_sampler()
    assert {p.dtype for p in sampler.model.parameters()} == {torch.float32}
    assert (sampler.batch_size, sampler.fixed) == (32, None)
    assert make_sampler(batch_size=7).batch_size == 7


def test_auto_is_recorded_as_the_precision_that_it_stands_for(
    make_config: Callable[..., GenerateConfig], workspace: Workspace
) -> None:
    """So images that an older version has drawn in float32 are found."""
    run(make_config(precision="fp32"))
    assert run(make_config()).outcome == "unchanged"


@pytest.mark.parametrize(
    ("cuda", "bf16", "expected"),
    [(False, False, "fp32"), (True, True, "bf16"), (True, False, "fp32")],
)
def test_auto_is_bf16_on_devices_that_compute_in_it(
    cuda: bool, bf16: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation: bf16)
    assert pick_precision("auto", "auto") == expected
    assert pick_precision("auto", "cpu") == "fp32"
    assert pick_precision("fp16", "auto") == "fp16"


def test_a_batch_fits_in_four_fifths_of_the_free_memory() -> None:
    assert fitting_images(139 << 30, 18 << 20) == 512
    assert fitting_images(1000, 100) == 8
    assert fitting_images(999, 100) == 7
    assert fitting_images(10, 100) == 1


def test_an_image_takes_its_keys_and_values_and_twice_that_with_guidance(
    make_sampler: MakeSampler,
) -> None:
    model = make_sampler().model
    each = image_bytes(model, guided=False)
    assert each > 2 * 2 * (6 + 16) * 2 * 8 * 4  # keys and values, layers, positions, heads of 8
    assert image_bytes(model, guided=True) == 2 * each


@pytest.mark.parametrize(
    ("wanted", "images", "device", "expected"),
    [
        ("auto", 19_999, "cuda", False),
        ("auto", 20_000, "cuda", True),
        ("auto", 10**6, "cpu", False),
        ("on", 1, "cpu", True),
        ("off", 10**6, "cuda", False),
    ],
)
def test_compiling_pays_on_cuda_from_20000_images(
    wanted: str, images: int, device: str, expected: bool
) -> None:
    assert should_compile(wanted, images, torch.device(device)) is expected

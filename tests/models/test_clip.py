"""CLIP scores: the pixels and the scores of transformers, and errors for invalid files."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from pipeline.core.errors import DependencyError, ModelError
from pipeline.models.clip import Clip, find_clip, load_clip, read_preparation
from tests.oracles.clip import write_clip

PIXELS_BHWC = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), dtype=np.uint8)
TEXTS = ["a red cube", "blue", "a red cube"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def clip(folder: Path) -> Clip:
    return load_clip(find_clip(str(folder)), torch.device("cpu"))


def stock_pixels(folder: Path) -> torch.Tensor:
    """The pixels of transformers' own processor that works without torchvision."""
    processing = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
    processor = processing.CLIPImageProcessorPil.from_pretrained(folder)
    pixels: torch.Tensor = processor(list(PIXELS_BHWC), return_tensors="pt")["pixel_values"]
    return pixels


def test_images_are_prepared_as_by_transformers(folder: Path) -> None:
    ours = read_preparation(folder, default_side=16)(PIXELS_BHWC)
    torch.testing.assert_close(ours, stock_pixels(folder), rtol=1e-5, atol=1e-5)


def test_scores_are_those_of_transformers(folder: Path, clip: Clip) -> None:
    for number, text in enumerate(TEXTS):
        with torch.no_grad():
            alone = clip.model(
                **clip.tokenizer([text], return_tensors="pt"),
                pixel_values=stock_pixels(folder)[number : number + 1],
            )
        expected = float(alone.logits_per_image[0, 0])
        assert clip.score(TEXTS, PIXELS_BHWC)[number] == pytest.approx(expected, abs=1e-4)


def test_a_score_does_not_depend_on_what_else_is_scored(clip: Clip) -> None:
    together = clip.score(TEXTS, PIXELS_BHWC)
    alone = [clip.score([TEXTS[n]], PIXELS_BHWC[n : n + 1])[0] for n in range(3)]
    assert alone == together


def test_a_long_text_is_cut_where_clip_ends(clip: Clip) -> None:
    assert len(clip.score(["a very long text that goes on and on"], PIXELS_BHWC[:1])) == 1


def test_the_fingerprint_is_that_of_the_files(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    assert find_clip(str(copy)).fingerprint == find_clip(str(folder)).fingerprint
    (copy / "config.json").write_text((copy / "config.json").read_text() + "\n")
    assert find_clip(str(copy)).fingerprint != find_clip(str(folder)).fingerprint


@pytest.mark.parametrize(
    ("facts", "resize", "side"),
    [
        ({"size": 32, "crop_size": 24}, 32, 24),
        ({"size": {"shortest_edge": 32}, "crop_size": {"height": 24, "width": 24}}, 32, 24),
        ({}, 16, 16),
    ],
)
def test_old_and_new_descriptions_of_the_preparation_are_read(
    facts: dict[str, Any], resize: int, side: int, tmp_path: Path
) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(facts))
    preparation = read_preparation(tmp_path, default_side=16)
    assert (preparation.resize, preparation.side) == (resize, side)


def test_without_a_description_images_are_prepared_as_openai_does(tmp_path: Path) -> None:
    preparation = read_preparation(tmp_path, default_side=224)
    assert (preparation.resize, preparation.side) == (224, 224)
    assert preparation.mean == pytest.approx((0.4815, 0.4578, 0.4082), abs=1e-4)


def test_what_is_no_clip_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"not a CLIP folder: it has no config\.json"):
        find_clip(str(tmp_path))
    with pytest.raises(ModelError, match="not a folder, and no such model could be downloaded"):
        find_clip("no/such/clip")
    (tmp_path / "preprocessor_config.json").write_text('{"size": {"height": 3, "width": 4}}')
    with pytest.raises(ModelError, match="expected square images"):
        read_preparation(tmp_path, default_side=16)


def test_weights_that_are_truncated_or_of_another_model_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    weights = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ModelError, match="can't be loaded"):
        load_clip(find_clip(str(copy)), torch.device("cpu"))
    from safetensors.torch import save_file

    save_file({"another": torch.zeros(1)}, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"are not those of a CLIP model: .* missing"):
        load_clip(find_clip(str(copy)), torch.device("cpu"))


def test_a_missing_package_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = find_clip(str(folder))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(DependencyError, match=r"dalle-pipeline\[clip\]"):
        load_clip(found, torch.device("cpu"))


def test_weights_that_are_not_finite_are_refused(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    weights = safetensors.torch.load_file(copy / "model.safetensors")
    weights["visual_projection.weight"][0, 0] = float("nan")
    safetensors.torch.save_file(weights, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        ModelError, match=r"copy contains NaN .* in tensor visual_projection\.weight"
    ):
        load_clip(find_clip(str(copy)), torch.device("cpu"))


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"size": -1}, "size -1, expected an integer from 1"),
        ({"size": 10**9}, "size 1000000000, expected an integer from 1 to 4,096"),
        ({"size": {"height": "a", "width": 2}}, "size.height 'a'"),
        ({"size": 16, "crop_size": 20}, "crop_size 20, expected at most the size, 16"),
        ({"image_mean": [0.5, 0.5]}, "image_mean"),
        ({"image_std": [0.5, 0, 0.5]}, "image_std"),
        ({"image_std": [0.5, "x", 0.5]}, "image_std"),
        ({"resample": 9}, "resample 9"),
        ([1], "expected an object"),
        ("[" * 100_000, "nested"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_preparation_that_was_edited_by_hand_names_its_field(
    tmp_path: Path, facts: object, words: str
) -> None:
    text = facts if isinstance(facts, str) else json.dumps(facts)
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(ModelError, match=words):
        read_preparation(tmp_path, default_side=16)

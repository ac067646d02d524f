"""The parts of codec training: the codebook, the order of images, the learning rate, the quality measures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pipeline.models.codecs.reconstruct import psnr
from pipeline.train_codec.codebook import CodebookLearner
from pipeline.train_codec.config import TrainCodecConfig
from pipeline.train_codec.quality import perplexity
from pipeline.train_codec.training import (
    batch_rows,
    begin_training,
    learning_rate,
    reconstruction_loss,
    seeded_generator,
)

CENTRES_KD = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])


def clouds(per_centre: int) -> torch.Tensor:
    generator = seeded_generator("clouds")
    noise = torch.randn(3 * per_centre, 2, generator=generator) * 0.1
    return CENTRES_KD.repeat_interleave(per_centre, 0) + noise


def distance_to_centres(codebook_KD: torch.Tensor) -> float:
    return float(torch.cdist(CENTRES_KD, codebook_KD).min(1).values.max())


def test_k_means_finds_the_clouds() -> None:
    codebook_KD = torch.zeros(6, 2)
    CodebookLearner(codebook_KD).start(clouds(100), seeded_generator("start"))
    assert distance_to_centres(codebook_KD) < 0.3


def test_k_means_copes_with_fewer_latents_than_entries() -> None:
    codebook_KD = torch.zeros(50, 2)
    CodebookLearner(codebook_KD).start(clouds(2), seeded_generator("start"))
    assert torch.isfinite(codebook_KD).all()
    assert distance_to_centres(codebook_KD) < 0.3


def test_the_codebook_follows_its_latents() -> None:
    codebook_KD = torch.zeros(3, 2)
    learner = CodebookLearner(codebook_KD)
    learner.start(CENTRES_KD, seeded_generator("start"))
    codes_M = torch.cdist(CENTRES_KD, codebook_KD).argmin(1)
    for _ in range(600):
        learner.update(CENTRES_KD + 5, codes_M, seeded_generator("step"))
    torch.testing.assert_close(codebook_KD[codes_M], CENTRES_KD + 5, atol=0.1, rtol=0)


def test_an_entry_that_is_unused_restarts_among_the_latents() -> None:
    codebook_KD = torch.zeros(3, 2)
    learner = CodebookLearner(codebook_KD)
    learner.start(CENTRES_KD, seeded_generator("start"))
    latents_MD = torch.full((8, 2), 5.0)
    restarted = sum(
        learner.update(latents_MD, torch.zeros(8, dtype=torch.int64), seeded_generator("step"))
        for _ in range(600)
    )
    assert restarted >= 2
    torch.testing.assert_close(codebook_KD, torch.full((3, 2), 5.0), atol=0.1, rtol=0)


def test_every_epoch_sees_every_image_once_in_its_own_order() -> None:
    rows = np.concatenate([batch_rows(step, 10, 4, seed=3) for step in range(5)])
    assert sorted(rows[:10]) == sorted(rows[10:]) == list(range(10))
    assert list(rows[:10]) != list(rows[10:])
    assert list(rows) != list(np.concatenate([batch_rows(s, 10, 4, seed=4) for s in range(5)]))


def test_a_batch_may_be_larger_than_the_images() -> None:
    assert sorted(batch_rows(0, 2, 5, seed=0)[:4]) == [0, 0, 1, 1]


def test_the_learning_rate_rises_to_its_peak_and_falls() -> None:
    config = TrainCodecConfig(steps=100, learning_rate=1.0)
    rates = [learning_rate(step, config) for step in range(100)]
    assert max(rates) == pytest.approx(1.0)
    assert rates.index(max(rates)) == 9
    assert rates[0] == pytest.approx(0.1)
    assert 0.02 <= rates[-1] < 0.03


def test_psnr_is_that_of_the_definition() -> None:
    black = np.zeros((1, 4, 4, 3), dtype=np.uint8)
    assert psnr(black, black + np.uint8(255)) == [pytest.approx(0)]
    assert psnr(black, black + np.uint8(1)) == [pytest.approx(48.1308, abs=1e-3)]
    assert psnr(black, black) == [60.0]


def test_perplexity_counts_evenly_used_entries() -> None:
    assert perplexity(torch.tensor([5, 5, 0, 5, 5])) == pytest.approx(4)
    assert perplexity(torch.tensor([0, 7])) == pytest.approx(1)


def test_the_loss_is_the_absolute_error_and_4_times_the_squared_one() -> None:
    images = torch.zeros(1, 3, 2, 2)
    decoded = torch.tensor([0.5, -0.5]).repeat(6).view(1, 3, 2, 2)
    assert reconstruction_loss(decoded, images).item() == pytest.approx(0.5 + 4 * 0.25)
    assert reconstruction_loss(images, images).item() == 0.0


def test_the_rate_rises_in_a_line_and_falls_to_a_fiftieth() -> None:
    config = TrainCodecConfig(steps=100, learning_rate=1.0)
    rates = [learning_rate(step, config) for step in range(101)]
    assert rates[:11] == pytest.approx([*(n / 10 for n in range(1, 11)), 1.0])
    assert rates[55] == pytest.approx(0.02 + 0.98 / 2)
    assert rates[100] == pytest.approx(0.02)
    assert rates[10:] == sorted(rates[10:], reverse=True)


@pytest.mark.parametrize("kind", ["vq", "discrete"])
def test_the_encoder_learns_at_three_tenths_of_the_rate(kind: Any) -> None:
    config = TrainCodecConfig(
        kind=kind, image_size=32, channels=8, code_dim=4, num_tokens=4, steps=100, batch_size=2,
        learning_rate=0.5,
    )  # fmt: skip
    training = begin_training(config, torch.device("cpu"))
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    for step in range(2):
        training.advance(pixels)
        decoder, encoder = (group["lr"] for group in training.optimizer.param_groups)
        assert decoder == pytest.approx(learning_rate(step, config))
        assert encoder == pytest.approx(0.3 * decoder)


def test_every_epoch_has_an_order_of_its_own() -> None:
    epochs = [[*batch_rows(step, 10, 10, seed=1)] for step in range(3)]
    assert [sorted(rows) for rows in epochs] == [list(range(10))] * 3
    assert len({tuple(rows) for rows in epochs}) == 3

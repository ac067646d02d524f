"""How a codebook learns, by values: k-means, moving averages, entries that nobody uses."""

from __future__ import annotations

import pytest
import torch

from pipeline.train_codec.codebook import CodebookLearner

ENTRIES = 4


@pytest.fixture
def learner() -> CodebookLearner:
    """4 entries of 1 number, 0 to 3, all used alike."""
    learner = CodebookLearner(torch.arange(4.0)[:, None])
    learner.share_K.fill_(1 / ENTRIES)
    learner.sum_KD.copy_(learner.codebook_KD / ENTRIES)
    return learner


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_entries_move_by_a_hundredth_towards_the_mean_of_what_chose_them(
    learner: CodebookLearner,
) -> None:
    latents = torch.tensor([[0.0], [1.5], [2.0], [4.0]])
    assert learner.update(latents, torch.arange(4), generator()) == 0
    expected = [0.0, 0.99 * 1 + 0.01 * 1.5, 2.0, 0.99 * 3 + 0.01 * 4]
    assert learner.codebook_KD[:, 0].tolist() == pytest.approx(expected)
    assert learner.share_K.tolist() == pytest.approx([0.25] * 4)


def test_shares_are_moving_averages_of_how_many_chose_an_entry(learner: CodebookLearner) -> None:
    latents = torch.tensor([[0.0]] * 8)
    learner.update(latents, torch.zeros(8, dtype=torch.int64), generator())
    assert learner.share_K.tolist() == pytest.approx([0.99 / 4 + 0.01, *[0.99 / 4] * 3])


@pytest.mark.parametrize(("share", "restarted"), [(0.0074, 1), (0.0078, 0)])
def test_an_entry_below_3_percent_of_its_share_starts_anew_at_a_latent(
    share: float, restarted: int, learner: CodebookLearner
) -> None:
    learner.share_K[3] = share / 0.99  # what is left of it after this update
    latents = torch.full((8, 1), 7.0)
    assert learner.update(latents, torch.zeros(8, dtype=torch.int64), generator()) == restarted
    found = learner.codebook_KD[3].item()
    assert (found == pytest.approx(7.0)) == bool(restarted)
    if restarted:
        assert learner.share_K[3].item() == pytest.approx(0.3 / ENTRIES)


def test_k_means_finds_clusters_and_leaves_no_entry_unused() -> None:
    places = torch.tensor([-10.0, 0.0, 10.0, 20.0])
    latents = (places[:, None] + torch.linspace(-1, 1, 11)).flatten()[:, None]
    for seed in range(5):
        learner = CodebookLearner(torch.zeros(ENTRIES, 1))
        learner.start(latents, torch.Generator().manual_seed(seed))
        chosen = (latents - learner.codebook_KD.T).square().argmin(1)
        assert len(set(chosen.tolist())) == ENTRIES
        assert learner.share_K.tolist() == [1 / ENTRIES] * ENTRIES


def test_entries_that_k_means_leaves_unused_are_placed_on_latents() -> None:
    """3 different latents for 4 entries: one entry must share its place with another."""
    latents = torch.tensor([[-5.0], [0.0], [5.0]])
    learner = CodebookLearner(torch.full((ENTRIES, 1), 100.0))
    learner.start(latents, generator())
    assert {round(entry, 3) for entry in learner.codebook_KD[:, 0].tolist()} <= {-5.0, 0.0, 5.0}


def test_a_learner_goes_on_from_its_state(learner: CodebookLearner) -> None:
    latents = torch.tensor([[0.5], [1.5], [2.5], [3.5]])
    learner.update(latents, torch.arange(4), generator())
    other = CodebookLearner(learner.codebook_KD.clone())
    other.load(learner.state())
    for one in (learner, other):
        one.update(latents, torch.arange(4), generator())
    assert torch.equal(learner.codebook_KD, other.codebook_KD)


@pytest.mark.parametrize("seed", range(10))
def test_k_means_moves_entries_that_nothing_chose_until_all_are_used(seed: int) -> None:
    """Entries that are drawn alike leave all but one of them without a choice."""
    latents = torch.tensor([0.0, 10.0, 20.0, 30.0]).repeat_interleave(30)[:, None]
    learner = CodebookLearner(torch.zeros(ENTRIES, 1))
    learner.start(latents, torch.Generator().manual_seed(seed))
    assert sorted(learner.codebook_KD[:, 0].tolist()) == pytest.approx([0, 10, 20, 30], abs=1e-3)

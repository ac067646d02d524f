"""Training on real shards with a tiny model."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from pipeline.core.errors import ConfigError, ContractError, ModelError
from pipeline.core.storage import read_manifest, write_json
from pipeline.core.workspace import Workspace
from pipeline.models.checkpoints.native import list_checkpoints, load_dalle, read_info
from pipeline.models.dalle.model import DalleLoss
from pipeline.models.dalle.sampling import Choice, sample_codes
from pipeline.models.tokenizers.load import load_tokenizer
from pipeline.train.config import TrainConfig
from pipeline.train.feeding import DeviceBatch
from pipeline.train.optimizer import learning_rate
from pipeline.train.run import run
from pipeline.train.trainer import Trainer
from pipeline.webdata.index import read_index, write_index
from tests.helpers.progress import items_only
from tests.helpers.training import TrainedRuns, log_of, tree

MakeConfig = Callable[..., TrainConfig]
CPU = torch.device("cpu")


def test_a_model_learns_which_codes_a_caption_means(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    report = run(make_config(steps=120, ff_dropout=0.0, attn_dropout=0.0))
    assert report.outcome == "done"
    folder = workspace.run("tiny")
    model = load_dalle(folder / str(report.details["checkpoint"]), device=CPU)
    captions = ["a red cube", "a green cube", "a blue cube", "a white cube"]
    tokens_BT = torch.from_numpy(load_tokenizer(folder).encode_batch(captions, 6)).long()
    codes_BN = sample_codes(
        model,
        tokens_BT,
        rows=range(4),
        image_seeds=[0, 1, 2, 3],
        choice=Choice(filter_thres=0.0, temperature=0.7),
    )
    right = (codes_BN // 4 == torch.arange(4)[:, None]).float().mean()
    assert right > 0.9


def test_the_folder_holds_plan_tokenizer_log_checkpoints_and_manifest(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    run(make_config())
    folder = workspace.run("tiny")
    assert [path.name for path in list_checkpoints(folder / "checkpoints")] == [
        "step-000010",
        "step-000012",
    ]
    manifest = read_manifest(folder, "run")
    assert set(manifest.inputs) == {"shards/default"}
    assert {entry.path: entry.sha256 for entry in manifest.files} == {
        name: digest for name, digest in tree(folder).items() if name != "manifest.json"
    }
    records = log_of(folder)
    assert [r["step"] for r in records if "loss" in r] == list(range(1, 13))
    assert [r["step"] for r in records if "val_loss" in r] == [4, 8, 12]
    assert manifest.details["val_loss_image"] == records[-1]["val_loss_image"]


def test_the_same_run_twice_leaves_the_same_bytes(
    workspace: Workspace, make_config: MakeConfig, trained: TrainedRuns
) -> None:
    run(make_config())
    assert tree(workspace.run("tiny")) == trained.whole(make_config())


def test_a_finished_run_is_left_alone(workspace: Workspace, make_config: MakeConfig) -> None:
    done = run(make_config())
    before = tree(workspace.run("tiny"))
    again = run(make_config())
    assert (again.outcome, again.counts) == ("unchanged", done.counts)
    assert tree(workspace.run("tiny")) == before


@pytest.mark.parametrize("step", [1, 4, 5, 7, 11, 12])
def test_a_run_stopped_at_any_step_ends_in_the_same_bytes(
    make_config: MakeConfig, trained: TrainedRuns, step: int
) -> None:
    folder = trained.put(make_config(), killed_after=step)
    run(make_config())
    assert tree(folder) == trained.whole(make_config())


def test_a_run_that_steps_across_epochs_by_accumulation_resumes_exactly(
    make_config: MakeConfig, trained: TrainedRuns
) -> None:
    config = make_config(ga_steps=3, batch_size=7)
    folder = trained.put(config, killed_after=6)
    run(config)
    assert tree(folder) == trained.whole(config)


def test_more_steps_continue_from_the_last_checkpoint_as_if_asked_for_at_the_start(
    workspace: Workspace, make_config: MakeConfig, trained: TrainedRuns
) -> None:
    whole = trained.whole(make_config(lr_decay="constant", steps=23, log_every=2))
    run(make_config(lr_decay="constant", steps=13, log_every=2))
    steps: list[int] = []
    run(
        make_config(lr_decay="constant", steps=23, log_every=2),
        items_only(lambda done, total, notes=None: steps.append(done)),
    )
    assert steps[0] == 14
    assert tree(workspace.run("tiny")) == whole


def test_another_plan_is_refused_and_nothing_is_changed(
    make_config: MakeConfig, trained: TrainedRuns
) -> None:
    folder = trained.put(make_config())
    before = tree(folder)
    with pytest.raises(ConfigError, match=r"learning_rate 0.01 → 0.02.*--on-change restart"):
        run(make_config(learning_rate=2e-2))
    with pytest.raises(ConfigError, match="steps 12 → 13"):
        run(make_config(steps=13))
    assert tree(folder) == before


def test_another_plan_starts_over_when_asked_to(
    workspace: Workspace, make_config: MakeConfig, trained: TrainedRuns
) -> None:
    trained.put(make_config())
    report = run(make_config(steps=6, on_change="restart"))
    assert report.counts["steps"] == 6
    assert [p.name for p in list_checkpoints(workspace.run("tiny") / "checkpoints")] == [
        "step-000005",
        "step-000006",
    ]


def test_new_shards_are_another_plan(
    workspace: Workspace, make_config: MakeConfig, trained: TrainedRuns
) -> None:
    trained.put(make_config())
    path = workspace.shards("default") / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest["files"][0]["sha256"] = "0" * 64
    write_json(path, manifest)
    with pytest.raises(ConfigError, match="shards/default"):
        run(make_config())


def test_epochs_make_steps(make_config: MakeConfig) -> None:
    report = run(make_config(steps=None, epochs=2, batch_size=16, ga_steps=2))
    assert report.counts["steps"] == 2  # 40 samples: 2 batches of 16 an epoch


def test_a_loss_that_is_not_finite_stops_before_the_step_and_names_the_samples(
    workspace: Workspace, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy = Trainer.loss
    calls = itertools.count(1)

    def broken(self: Trainer, module: nn.Module, batch: DeviceBatch) -> DalleLoss:
        loss = healthy(self, module, batch)
        return loss._replace(total=loss.total * math.nan) if next(calls) == 7 else loss

    monkeypatch.setattr(Trainer, "loss", broken)
    with pytest.raises(ModelError, match=r"before step 7: a loss is not finite.*train_00\d\d"):
        run(make_config(val_every=0))
    checkpoint = list_checkpoints(workspace.run("tiny") / "checkpoints")[-1]
    assert read_info(checkpoint).step == 5
    assert not (workspace.run("tiny") / "manifest.json").exists()


def test_a_run_whose_only_checkpoint_is_damaged_is_not_restarted_unasked(
    workspace: Workspace,
    make_config: MakeConfig,
    trained: TrainedRuns,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = trained.put(make_config(), killed_after=7)
    weights = folder / "checkpoints/step-000005/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    before = tree(workspace.run("tiny"))
    with pytest.raises(ModelError, match=r"All checkpoints of .*tiny are damaged: step-000005"):
        run(make_config())
    assert f"{weights} is not the file that checkpoint.json describes" in caplog.text
    assert tree(workspace.run("tiny")) == before
    assert run(make_config(on_change="restart")).counts["steps"] == 12


def test_an_empty_split_is_refused(workspace: Workspace, make_config: MakeConfig) -> None:
    folder = workspace.shards("default")
    index = read_index(folder)
    write_index(
        folder, dataclasses.replace(index, shards={"train": (), "val": index.shards["val"]})
    )
    with pytest.raises(ContractError, match="no training samples"):
        run(make_config())


def test_a_run_without_validation_samples_has_no_validation(
    workspace: Workspace, make_config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    folder = workspace.shards("default")
    index = read_index(folder)
    write_index(
        folder, dataclasses.replace(index, shards={"train": index.shards["train"], "val": ()})
    )
    report = run(make_config())
    assert report.outcome == "done"
    assert "no validation samples" in caplog.text
    assert "val_loss" not in report.details


def test_a_batch_that_the_split_can_not_fill_is_refused(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match="--batch-size 40 or less"):
        run(make_config(batch_size=41))


def test_images_that_are_not_square_are_refused(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    folder = workspace.shards("default")
    write_index(folder, dataclasses.replace(read_index(folder), grid=(1, 9)))
    with pytest.raises(ModelError, match="1×9"):
        run(make_config())


def test_missing_shards_are_refused(workspace: Workspace, make_config: MakeConfig) -> None:
    with pytest.raises(ContractError):
        run(make_config(shards="nothing"))


def test_bf16_trains_too(make_config: MakeConfig) -> None:
    report = run(make_config(precision="bf16", steps=3))
    assert math.isfinite(report.details["loss"])


def test_the_learning_rate_rises_then_falls(make_config: MakeConfig) -> None:
    config = make_config(learning_rate=1.0, warmup_steps=4)
    rates = [learning_rate(step, total_steps=20, config=config) for step in range(1, 21)]
    assert rates[:5] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert all(a > b for a, b in itertools.pairwise(rates[4:]))
    assert 0 < rates[-1] < 0.02


def test_the_number_of_threads_is_the_processs_own_again_afterwards(
    make_config: MakeConfig,
) -> None:
    """The next stage of the same process would compute other last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        run(make_config(steps=1, threads=1))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)

"""The stage train-codec: its outputs, resuming after a kill, the same bytes twice, bad input."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import os
import pickle
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from pipeline.core.errors import ConfigError, ContractError, DamageError
from pipeline.core.storage import read_manifest
from pipeline.core.workspace import Workspace
from pipeline.models.codecs.load import load_codec
from pipeline.train_codec.config import TrainCodecConfig
from pipeline.train_codec.run import run
from tests.helpers.kept_workspace import write_workspace
from tests.helpers.progress import items_only

MakeWorkspace = Callable[..., Workspace]


KINDS: dict[str, dict[str, str]] = {
    "patches": {"encoder": "patches"},
    "convolutional": {"encoder": "convolutional"},
    "discrete-vae": {"kind": "discrete-vae"},
}


def make_config(workspace: Workspace, **options: int | str) -> TrainCodecConfig:
    small: dict[str, int | str] = {
        "image_size": 32,
        "num_tokens": 16,
        "channels": 8,
        "code_dim": 4,
        "steps": 12,
        "batch_size": 4,
        "checkpoint_every": 5,
        "workers": 2,
    }
    return TrainCodecConfig(workspace=workspace.root, **{**small, **options})  # type: ignore[arg-type]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


class TrainedCodecs:
    """Codecs of `make_workspace()`, each trained once: finished, and as a kill after each step left them."""

    def __init__(self, kept: Path) -> None:
        self._kept, self._workspace = kept, write_workspace(kept / "workspace")

    def whole(self, **options: int | str) -> Path:
        """The folder of the finished codec."""
        return self._train(options) / "whole"

    def put(self, workspace: Workspace, *, killed_after: int, **options: int | str) -> Path:
        """Copy the codec that a kill after that step left to a workspace."""
        kept = self._train(options) / str(killed_after)
        return shutil.copytree(kept, workspace.codec("small"))

    def _train(self, options: Mapping[str, int | str]) -> Path:
        kept, folder = self._kept / json.dumps(options), self._workspace.codec("small")

        def keep(done: int, total: int | None, notes: object = None) -> None:
            if done and not (kept / str(done)).exists():
                shutil.copytree(folder, kept / str(done), copy_function=os.link)

        if not (kept / "whole").exists():
            run(make_config(self._workspace, **options), keep)
            folder.rename(kept / "whole")
        return kept


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedCodecs:
    """Codecs that several tests need, trained once."""
    return TrainedCodecs(tmp_path_factory.mktemp("trained"))


def test_it_writes_a_codec_its_log_and_an_image(make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace()
    report = run(make_config(workspace))
    folder = workspace.codec("small")
    assert report.outcome == "done"
    assert sorted(files_of(folder)) == [
        "codec.json",
        "codec.safetensors",
        "log.jsonl",
        "manifest.json",
        "reconstructions.png",
    ]
    manifest = read_manifest(folder, "codec")
    assert load_codec(folder).fingerprint == manifest.details["fingerprint"]
    assert manifest.counts == {"images": 16, "learnt_from": 16, "failed": 0}
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(12))
    assert 0 < report.details["codebook_used"] <= 16


@pytest.mark.parametrize("kind", KINDS)
def test_the_log_has_psnr_at_even_distances_the_last_being_that_of_the_codec(
    trained: TrainedCodecs, kind: str
) -> None:
    folder = trained.whole(steps=24, **KINDS[kind])
    details = read_manifest(folder, "codec").details
    text = (folder / "log.jsonl").read_text()
    measured = {
        line["step"]: line["val_psnr_db"]
        for line in map(json.loads, text.splitlines())
        if "val_psnr_db" in line
    }
    assert list(measured) == [*range(1, 24, 2)]
    assert measured[23] == pytest.approx(details["psnr_db"], abs=0.01)


def test_the_log_can_be_read_during_training(
    make_workspace: MakeWorkspace, trained: TrainedCodecs
) -> None:
    folder = trained.put(make_workspace(), killed_after=8)
    lines = (folder / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(5))


def test_a_second_run_finds_it_unchanged(make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace()
    run(make_config(workspace))
    before = files_of(workspace.codec("small"))
    assert run(make_config(workspace, workers=1)).outcome == "unchanged"
    assert files_of(workspace.codec("small")) == before
    report = run(make_config(workspace, seed=1))
    assert (report.outcome, report.outputs) == ("done", (str(workspace.codec("small-2")),))
    assert files_of(workspace.codec("small")) == before
    other = files_of(workspace.codec("small-2"))
    assert other["codec.safetensors"] != before["codec.safetensors"]
    assert run(make_config(workspace)).outputs == (str(workspace.codec("small")),)
    assert run(make_config(workspace, seed=1)).outcome == "unchanged"


@pytest.mark.parametrize("batch_size", [17, 2**31])
def test_a_batch_of_more_images_than_there_are_is_refused(
    make_workspace: MakeWorkspace, batch_size: int
) -> None:
    workspace = make_workspace()
    with pytest.raises(ConfigError, match=r"can't be filled from 16 training images"):
        run(make_config(workspace, batch_size=batch_size))


def test_what_was_started_with_other_options_is_left_for_them(
    make_workspace: MakeWorkspace, trained: TrainedCodecs
) -> None:
    workspace = make_workspace()
    trained.put(workspace, killed_after=7)
    assert run(make_config(workspace, seed=1)).outputs == (str(workspace.codec("small-2")),)
    assert run(make_config(workspace)).outputs == (str(workspace.codec("small")),)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [1, 7, 12])
def test_killed_and_continued_it_ends_in_the_same_bytes(
    make_workspace: MakeWorkspace,
    trained: TrainedCodecs,
    step: int,
    kind: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    workspace = make_workspace()
    folder = trained.put(workspace, killed_after=step, **KINDS[kind])
    assert not (folder / "manifest.json").exists()
    with caplog.at_level(logging.INFO):
        run(make_config(workspace, **KINDS[kind]))
    assert ("Resuming after step 5" in caplog.text) == (step == 7)
    assert files_of(folder) == files_of(trained.whole(**KINDS[kind]))


def test_a_checkpoint_of_other_options_is_not_taken_up(
    make_workspace: MakeWorkspace, trained: TrainedCodecs
) -> None:
    workspace = make_workspace()
    trained.put(workspace, killed_after=7)
    run(make_config(workspace, seed=3))
    assert files_of(workspace.codec("small-2")) == files_of(trained.whole(seed=3))


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[:1000],
    "cut at its end": lambda data: data[:-1],
    "zeros": lambda data: bytes(len(data)),
    "empty": lambda _: b"",
    "a flipped byte": lambda data: data[:-5000] + bytes([data[-5000] ^ 1]) + data[-4999:],
    "something else": lambda _: pickle.dumps([1, 2, 3]),
    "half of it": lambda data: _without_optimizer(data),
}


def _without_optimizer(data: bytes) -> bytes:
    state = torch.load(io.BytesIO(data), weights_only=True)
    del state["optimizer"]
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("damage", list(DAMAGE))
def test_a_broken_checkpoint_costs_time_only(
    make_workspace: MakeWorkspace, trained: TrainedCodecs, damage: str
) -> None:
    workspace = make_workspace()
    folder = trained.put(workspace, killed_after=7)
    path = folder / "checkpoint.pt"
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    run(make_config(workspace))
    assert files_of(folder) == files_of(trained.whole())


def test_a_broken_note_of_the_plan_costs_time_only(
    make_workspace: MakeWorkspace, trained: TrainedCodecs
) -> None:
    workspace = make_workspace()
    folder = trained.put(workspace, killed_after=7)
    (folder / "checkpoint.json").write_bytes(b"\xff\x00")
    assert run(make_config(workspace)).outcome == "done"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [1, 7, 11])
def test_a_signal_loses_no_step(
    make_workspace: MakeWorkspace,
    trained: TrainedCodecs,
    step: int,
    number: signal.Signals,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stopped = make_workspace()

    def progress(done: int, total: int | None, notes: object = None) -> None:
        if done == step:
            signal.raise_signal(number)

    with pytest.raises(KeyboardInterrupt):
        run(make_config(stopped, checkpoint_every=1000), progress)
    assert not (stopped.codec("small") / "manifest.json").exists()
    steps: list[int] = []
    with caplog.at_level(logging.INFO):
        run(
            make_config(stopped, checkpoint_every=1000),
            items_only(lambda done, total, notes=None: steps.append(done)),
        )
    assert f"Resuming after step {step}" in caplog.text
    assert [done for done in steps if done] == list(range(step + 1, 13))
    assert files_of(stopped.codec("small")) == files_of(trained.whole())


@pytest.mark.parametrize("kind", ["vq", "discrete-vae"])
def test_it_learns(make_workspace: MakeWorkspace, kind: str) -> None:
    workspace = make_workspace(40)
    start = run(make_config(workspace, name="start", steps=2, num_tokens=64, kind=kind))
    longer = make_config(workspace, name="end", steps=100, num_tokens=64, batch_size=8, kind=kind)
    end = run(longer)
    assert end.details["psnr_db"] > start.details["psnr_db"] + 0.3
    assert end.details["perplexity"] > 4


def test_images_that_do_not_decode_are_counted(make_workspace: MakeWorkspace) -> None:
    report = run(make_config(make_workspace(broken=(0, 3)), steps=2))
    assert report.counts == {"images": 16, "learnt_from": 14, "failed": 2}


def test_at_most_max_images_are_taken(make_workspace: MakeWorkspace) -> None:
    assert run(make_config(make_workspace(), steps=2, max_images=5)).counts["learnt_from"] == 5


def test_without_images_it_says_so(make_workspace: MakeWorkspace) -> None:
    with pytest.raises(ContractError, match="there is nothing to train on"):
        run(make_config(make_workspace(0)))


def test_without_dedupe_it_names_the_missing_stage(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "data").open(source="dalleblog")
    with pytest.raises(ContractError, match="not finished"):
        run(make_config(workspace))


def test_a_segment_that_lost_bytes_is_named(make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace()
    segment = workspace.segments / "00000.tar"
    segment.write_bytes(segment.read_bytes()[:500])
    with pytest.raises(DamageError, match=r"00000\.tar does not match .*verify --repair"):
        run(make_config(workspace))


def test_images_that_changed_since_they_were_inspected_are_not_trained_on(
    make_workspace: MakeWorkspace,
) -> None:
    workspace = make_workspace()
    segment = workspace.segments / "00000.tar"
    data = bytearray(segment.read_bytes())
    data[-30] ^= 1
    segment.write_bytes(data)
    with pytest.raises(DamageError, match=r"00000\.tar does not match"):
        run(make_config(workspace))
    assert not (workspace.codec("small") / "manifest.json").exists()


def test_without_validation_images_it_says_what_the_codec_is_measured_on(
    make_workspace: MakeWorkspace, caplog: pytest.LogCaptureFixture
) -> None:
    run(make_config(make_workspace(4), steps=2))
    assert "measured on its training images" in caplog.text


def test_cuda_where_there_is_none_is_refused(
    make_workspace: MakeWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    config = dataclasses.replace(make_config(make_workspace()), device="cuda")
    with pytest.raises(ConfigError, match="--device cuda"):
        run(config)

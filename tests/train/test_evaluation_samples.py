"""Grids of sample images during training."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.core.stop_signals import StopRequest
from pipeline.core.storage import make_manifest, write_manifest
from pipeline.core.workspace import Workspace
from pipeline.models.codecs.load import save_codec
from pipeline.models.codecs.vq import VQCodec, VQConfig
from pipeline.models.dalle.model import Dalle
from pipeline.train.compiling import compile_model, count_graphs
from pipeline.train.config import TrainConfig
from pipeline.train.distributed import Kind, Ranks, Stop
from pipeline.train.evaluation import make_grid_sampler
from pipeline.train.model import make_model, new_model
from pipeline.train.run import run
from pipeline.webdata.reader import ShardReader
from tests.helpers.training import StoppedError, stop_at, tree, write_shards

MakeConfig = Callable[..., TrainConfig]
SIDE = 48  # pixels of an image of 3 × 3 codes


@pytest.fixture
def codec(workspace: Workspace) -> VQCodec:
    """The codec of the shards, with any weights."""
    torch.manual_seed(1)
    codec = VQCodec(VQConfig(image_size=SIDE, num_tokens=16, code_dim=4, channels=4))
    codec.codebook_KD.normal_()
    folder = workspace.codec("tiny")
    save_codec(codec, folder)
    write_manifest(folder, make_manifest("codec", config={}, inputs={}, counts={}, files=()))
    write_shards(workspace, codec=codec.fingerprint)
    return codec


@pytest.mark.usefixtures("codec")
def test_a_grid_has_a_row_a_prompt_and_changes_as_the_model_does(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    prompts = ("a red cube", "a blue cube")
    run(make_config(sample_every=5, sample_prompts=prompts))
    paths = sorted((workspace.run("tiny") / "samples").iterdir())
    assert [path.name for path in paths] == [f"step-{step:06d}.png" for step in (5, 10, 12)]
    grids = [np.asarray(Image.open(path)) for path in paths]
    assert {grid.shape for grid in grids} == {(2 * SIDE, 4 * SIDE, 3)}
    assert not np.array_equal(grids[0], grids[1])
    first, second = grids[2][:, :SIDE], grids[2][:, SIDE : 2 * SIDE]
    assert not np.array_equal(first, second)  # each image has random numbers of its own


class GreyCodec(VQCodec):
    """Decodes to images of one grey each: -30 of 255, 0, 30, 60 and so on."""

    def decode(self, codes_BN: torch.Tensor) -> torch.Tensor:
        greys_B = (torch.arange(len(codes_BN)) * 30 - 30) / 255
        return greys_B[:, None, None, None].expand(-1, 3, 2, 2)


@pytest.mark.usefixtures("codec")
def test_a_grid_has_the_values_of_the_images_row_by_row(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    reader = ShardReader(workspace.shards("default"), "train")
    prompts = ("a red cube", "a blue cube", "a green cube")
    config = make_config(sample_every=5, sample_prompts=prompts)
    ranks = Ranks(kind="none", rank=0, size=1, device=torch.device("cpu"))
    sampler = make_grid_sampler(config, reader, ranks)
    assert sampler is not None
    grey = GreyCodec(VQConfig(image_size=SIDE, num_tokens=16, code_dim=4, channels=4))
    model = make_model(new_model(reader.index, config.model), config, ranks)
    grid_HWC = replace(sampler, codec=grey).draw(model, Stop(ranks, StopRequest()))
    assert grid_HWC is not None
    assert grid_HWC[::2, ::2, 0].tolist() == [
        [0, 0, 30, 60],
        [90, 120, 150, 180],
        [210, 240, 255, 255],
    ]


@pytest.mark.usefixtures("codec")
def test_operators_of_fixed_shapes_draw_the_same_grid_and_a_compiled_model_is_not_compiled_for_it(
    workspace: Workspace, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compiled layer would be compiled again for every layer and position."""
    reader = ShardReader(workspace.shards("default"), "train")
    config = make_config(sample_every=5, sample_prompts=("a red cube",))
    ranks = Ranks(kind="none", rank=0, size=1, device=torch.device("cpu"))
    sampler = make_grid_sampler(config, reader, ranks)
    assert sampler is not None
    assert not sampler.fixed  # faster on a CPU
    model = make_model(new_model(reader.index, config.model), config, ranks)
    compile_model(model, "none", backend="aot_eager")
    stop, before = Stop(ranks, StopRequest()), count_graphs()
    growing_HWC = sampler.draw(model, stop)
    assert growing_HWC is not None
    monkeypatch.delattr(Dalle, "next_logits")  # of the growing cache
    fixed_HWC = replace(sampler, fixed=True).draw(model, stop)
    assert fixed_HWC is not None
    assert np.array_equal(fixed_HWC, growing_HWC)
    assert count_graphs() == before


@pytest.mark.usefixtures("codec")
def test_drawing_changes_no_loss_and_resumes_in_the_same_bytes(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    run(make_config(name="plain"))
    config = make_config(sample_every=3)
    run(config)
    whole = tree(workspace.run("tiny"))
    assert whole["log.jsonl"] == tree(workspace.run("plain"))["log.jsonl"]
    workspace.run("tiny").rename(workspace.root / "elsewhere")
    with pytest.raises(StoppedError):
        run(config, stop_at(7))
    run(config)
    assert tree(workspace.run("tiny")) == whole


def test_no_grids_without_the_codec(
    workspace: Workspace, make_config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        run(make_config(sample_every=5))
    assert "No sample grids" in caplog.text
    assert not (workspace.run("tiny") / "samples").exists()


@pytest.mark.usefixtures("codec")
@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("fsdp", {}, "--parallel fsdp shards the weights"),
        ("deepspeed", {"zero_stage": 3}, "--zero-stage 3 shards the weights"),
        ("none", {"model": "dalle-pytorch"}, "--model dalle-pytorch does not support them"),
    ],
)
def test_grids_that_are_left_out_are_reported(
    workspace: Workspace,
    make_config: MakeConfig,
    caplog: pytest.LogCaptureFixture,
    kind: Kind,
    options: dict[str, Any],
    message: str,
) -> None:
    reader = ShardReader(workspace.shards("default"), "train")
    ranks = Ranks(kind=kind, rank=0, size=2, device=torch.device("cpu"))
    with caplog.at_level(logging.WARNING):
        assert make_grid_sampler(make_config(sample_every=5, **options), reader, ranks) is None
    assert "No sample grids" in caplog.text
    assert message in caplog.text
    assert "pipeline generate --checkpoint" in caplog.text
    caplog.clear()
    assert make_grid_sampler(make_config(sample_every=0, **options), reader, ranks) is None
    assert not caplog.text


@pytest.mark.usefixtures("codec")
def test_grids_are_drawn_where_the_weights_are_not_sharded(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    reader = ShardReader(workspace.shards("default"), "train")
    ranks = Ranks(kind="deepspeed", rank=0, size=2, device=torch.device("cpu"))
    assert make_grid_sampler(make_config(sample_every=5, zero_stage=2), reader, ranks) is not None

"""How many images there are: of options, of prompts, in the counts of the folder."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipeline.core.errors import ConfigError
from pipeline.core.storage import read_manifest
from pipeline.core.workspace import Workspace
from pipeline.generate.config import MAX_IMAGES, GenerateConfig
from pipeline.generate.prompts import Prompt, check_options, list_orders, list_prompts
from pipeline.generate.run import run
from tests.generate.images import records_of
from tests.oracles.clip import write_clip

MakeConfig = Callable[..., GenerateConfig]


@pytest.mark.parametrize(
    ("options", "drawn", "kept"),
    [
        ({}, 1, 1),
        ({"num_images": 7}, 7, 7),
        ({"best": 2, "of": 9}, 9, 2),
        ({"best": 9, "of": 9}, 9, 9),
    ],
)
def test_images_drawn_and_kept_of_a_prompt(options: dict[str, int], drawn: int, kept: int) -> None:
    config = GenerateConfig(**options)  # type: ignore[arg-type]
    assert (config.drawn, config.kept) == (drawn, kept)


@pytest.mark.parametrize(("best", "refused"), [(8, False), (9, False), (10, True)])
def test_no_more_can_be_kept_than_are_drawn(best: int, refused: bool) -> None:
    config = GenerateConfig(prompts=("a",), best=best, of=9, clip="x")
    if not refused:
        check_options(config)
        return
    with pytest.raises(ConfigError, match="--best 10 --of 9 would keep more images than it draws"):
        check_options(config)


@pytest.mark.parametrize(("more", "refused"), [(-1, False), (0, False), (1, True)])
def test_a_command_draws_up_to_a_million_images(more: int, refused: bool) -> None:
    def config(count: int) -> GenerateConfig:
        return GenerateConfig(prompts=("a|b",), num_images=count)

    assert MAX_IMAGES == 1_000_000
    if not refused:
        assert list_prompts(config(MAX_IMAGES // 2 + more)) == ["a", "b"]
        return
    with pytest.raises(ConfigError, match="exceed the limit of 1,000,000 images"):
        list_prompts(config(MAX_IMAGES // 2 + more))


def test_every_image_of_every_prompt_has_a_seed_of_its_own() -> None:
    orders = list_orders([Prompt(text="a"), Prompt(text="b")], count=3, seed=0)
    assert [(o.number, o.index) for o in orders] == [(n, i) for n in range(2) for i in range(3)]
    assert len({order.seed for order in orders}) == 6
    other = list_orders([Prompt(text="a")], count=3, seed=1)
    assert not {order.seed for order in orders} & {order.seed for order in other}


def test_the_counts_are_those_of_the_files(
    workspace: Workspace, make_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory
) -> None:
    clip = str(write_clip(tmp_path_factory.mktemp("clip")))
    report = run(make_config(num_images=1, clip=clip, best=2, of=5))
    law = {"images": 10, "written": 4, "outranked": 6, "failed": 0}
    assert report.counts == {**law, "prompts": 2, "prompts_cut": 0}
    folder = workspace.generated("default")
    assert read_manifest(folder, "generated").counts == report.counts
    assert len(records_of(workspace)) == len(list(folder.glob("*-*.png"))) == 4

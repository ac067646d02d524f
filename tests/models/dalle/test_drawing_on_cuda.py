"""Drawing on a CUDA device: recorded steps draw what eager ones draw, and less memory halves the batch."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.core.progress import no_progress
from pipeline.generate.config import GenerateConfig
from pipeline.generate.prompts import Prompt, list_orders
from pipeline.generate.sampler import ImageSampler
from pipeline.models.codecs.vq import VQCodec, VQConfig
from pipeline.models.dalle.attention_types import ATTENTION_TYPES
from pipeline.models.dalle.config import DalleConfig
from pipeline.models.dalle.continuous import ContinuousBatch
from pipeline.models.dalle.model import Dalle
from pipeline.models.dalle.sampling import Choice, sample_codes
from pipeline.models.dalle.static_decoder import FixedShapes
from pipeline.models.tokenizers.load import train_bpe
from tests.oracles.dalle import randomise

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = "cuda"
GREEDY = Choice(filter_thres=1.0)


def make_model(dtype: torch.dtype = torch.float32, **changes: Any) -> Dalle:
    config: dict[str, Any] = {
        "dim": 64,
        "depth": 2,
        "heads": 2,
        "dim_head": 32,
        "text_seq_len": 16,
        "num_text_tokens": 300,
        "num_image_tokens": 128,
        "image_fmap_size": 8,
    }
    torch.manual_seed(0)
    model = Dalle(DalleConfig(**{**config, **changes})).eval()
    randomise(model, std=0.2)
    return model.to(DEVICE, dtype)


def draw(model: Dalle, fixed: FixedShapes | None, *, images: int = 32) -> torch.Tensor:
    tokens_UT = torch.arange(1, 33, device=DEVICE).view(2, 16)
    rows = [image * 2 // images for image in range(images)]
    return sample_codes(
        model, tokens_UT, rows=rows, image_seeds=range(images), choice=GREEDY, fixed=fixed
    ).cpu()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ATTENTION_TYPES)
def test_recorded_steps_draw_what_eager_ones_draw(kind: str, dtype: torch.dtype) -> None:
    model = make_model(dtype, attn_types=(kind,))
    recorded = FixedShapes()
    draw(model, recorded)
    codes_BN = draw(model, recorded)  # all replayed, but for the first position of each length
    assert recorded.graphs, "CUDA graphs were switched off"
    assert torch.equal(codes_BN, draw(model, FixedShapes(graphs=False)))
    assert len(codes_BN.unique()) > 1


@pytest.mark.parametrize("switch", ["shift_tokens", "rotary_emb", "reversible", "stable"])
def test_fixed_shapes_draw_what_the_growing_cache_draws(switch: str) -> None:
    options: dict[str, Any] = {switch: True}
    model = make_model(**options)
    same = (draw(model, FixedShapes()) == draw(model, None)).float().mean().item()
    assert same > 0.99  # a near tie may be decided otherwise, and changes what follows


def test_compiled_layers_draw_the_same(caplog: pytest.LogCaptureFixture) -> None:
    model = make_model()
    compiled = FixedShapes(compile=True)
    same = (draw(model, compiled) == draw(model, FixedShapes())).float().mean().item()
    assert same > 0.99
    assert compiled.compile, caplog.text


def test_a_continuous_batch_draws_the_same_images() -> None:
    model = make_model()
    batch = ContinuousBatch(model, rows=16)
    tokens_T = torch.arange(1, 17)
    alone_BN = sample_codes(
        model, tokens_T[None].to(DEVICE), rows=[0], image_seeds=[0], choice=GREEDY
    ).cpu()
    found: list[torch.Tensor] = []
    batch.admit(tokens_T, seeds=[0, 1], choice=GREEDY)
    for step in range(90):
        if step == 9:
            batch.admit(tokens_T, seeds=[2, 3, 4], choice=GREEDY)
        batch.step()
        found += [image.codes_N for image in batch.take_finished() if image.codes_N is not None]
    assert len(found) == 5
    same = (torch.stack(found) == alone_BN).float().mean().item()
    assert same > 0.99


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Half a gigabyte more than is in use."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (512 << 20)) / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.usefixtures("little_memory")
def test_less_memory_than_expected_halves_the_batch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A row takes 2.9 MB: 512 of them 1.5 GB."""
    tokenizer = train_bpe(["a red cube", "a blue cube"] * 4, 300)
    model = make_model(
        dim=256, heads=8, dim_head=64, depth=4, image_fmap_size=16, dtype=torch.bfloat16
    )
    codec = VQCodec(VQConfig(image_size=256, num_tokens=128, code_dim=4, channels=4)).to(DEVICE)
    sampler = ImageSampler(
        config=GenerateConfig(workspace=tmp_path, prompts=("a red cube",), num_images=512),
        model=model,
        tokenizer=tokenizer,
        codec=codec.eval(),
        device=torch.device(DEVICE),
        first_codes_P=None,
        batch_size=512,
        fixed=FixedShapes(),
    )
    orders = list_orders([Prompt(text="a red cube")], count=512, seed=0)
    with caplog.at_level(logging.WARNING):
        pixels = [pixels for _, pixels in sampler.draw_all(orders, no_progress)]
    assert sum(map(len, pixels)) == 512
    assert "Out of memory with 512 images at once; trying 256." in caplog.text
    assert sampler.batch_size < 512

"""The linear layer: torch's results, packed or not."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from pipeline.models.dalle.config import DalleConfig
from pipeline.models.dalle.linear import Linear, can_pack
from pipeline.models.dalle.model import Dalle
from pipeline.models.dalle.sampling import Choice, sample_codes

X = torch.randn(5, 3, 24, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=["fp32", "bf16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[request.param]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("start", [0, 16])
def test_packed_weights_give_the_same_numbers(bias: bool, start: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer, x = Linear(24, 48, bias=bias).to(dtype), X.to(dtype)
    if not can_pack(layer.weight):
        pytest.skip("this build of torch has no oneDNN")
    whole = F.linear(x, layer.weight, layer.bias)
    plain = layer(x), layer.outputs_from(x, 16), *layer.chunks(x, 2)
    layer.pack(start)
    packed = layer(x), layer.outputs_from(x, 16), *layer.chunks(x, 2)
    expected = whole, whole[..., 16:], whole[..., :24], whole[..., 24:]
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-5
    for found in (plain, packed):
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_packing_adds_nothing_to_a_checkpoint() -> None:
    layer = Linear(24, 48)
    names = set(layer.state_dict())
    layer.pack()
    assert set(layer.state_dict()) == names == {"weight", "bias"}


def test_a_packed_model_draws_the_same_codes(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    config = DalleConfig(
        dim=24,
        depth=2,
        heads=2,
        dim_head=12,
        text_seq_len=5,
        num_text_tokens=11,
        num_image_tokens=13,
        image_fmap_size=4,
        shift_tokens=True,
        rotary_emb=True,
    )
    model = Dalle(config).eval().to(dtype)
    captions_UT = torch.tensor([[3, 4, 5, 0, 0], [7, 0, 0, 0, 0]])

    def draw() -> torch.Tensor:
        choice = Choice(filter_thres=0.5)
        return sample_codes(model, captions_UT, rows=[0, 1], image_seeds=[5, 6], choice=choice)

    plain = draw()
    model.pack()
    assert torch.equal(draw(), plain)

"""Training a DiscreteVAE: its initialisation, and folding it into the final codec."""

from __future__ import annotations

import pytest
import torch

from pipeline.core.errors import ConfigError
from pipeline.models.codecs.discrete_vae import DiscreteVAEConfig
from pipeline.train_codec.config import TrainCodecConfig
from pipeline.train_codec.discrete import DiscreteVAETrainee
from pipeline.train_codec.training import seeded_generator


def make_student(**changes: int) -> DiscreteVAETrainee:
    few = {"image_size": 16, "num_tokens": 32, "codebook_dim": 48, "num_layers": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return DiscreteVAETrainee(DiscreteVAEConfig(**{**few, "hidden_dim": 96, **changes}))  # type: ignore[arg-type]


def some_images(count: int = 8, side: int = 16) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=seeded_generator("images"))


@torch.no_grad()
@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_it_starts_with_all_of_an_image_where_there_is_room(blocks: int) -> None:
    """4×4 pixels are 48 numbers: with as many in a code, nothing is lost before the codebook."""
    student, images_BCHW = make_student(num_resnet_blocks=blocks), some_images()
    student.set_patches([images_BCHW[:4], images_BCHW[4:]])
    latents_BDRS = student.encode_latents(images_BCHW)
    assert latents_BDRS.shape == (8, 48, 4, 4)
    assert float(latents_BDRS.square().mean()) == pytest.approx(1, abs=0.01)
    torch.testing.assert_close(student.decode_latents(latents_BDRS), images_BCHW, atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("changes", [{"codebook_dim": 5}, {"hidden_dim": 6}, {"hidden_dim": 7}])
def test_with_less_room_it_starts_with_the_strongest_components(changes: dict[str, int]) -> None:
    """Images of one colour each are what the first of them keep."""
    student = make_student(**changes)
    flat_BCHW = torch.rand(8, 3, 1, 1, generator=seeded_generator("flat")).expand(8, 3, 16, 16)
    student.set_patches([flat_BCHW])
    decoded_BCHW = student.decode_latents(student.encode_latents(flat_BCHW))
    torch.testing.assert_close(decoded_BCHW, flat_BCHW, atol=1e-3, rtol=0)


@torch.no_grad()
def test_the_finished_codec_has_the_codes_of_the_nearest_entries() -> None:
    student, images_BCHW = make_student(num_resnet_blocks=1), some_images()
    student.set_patches([images_BCHW])
    student.project.bias.copy_(torch.randn(48, generator=seeded_generator("bias")))  # type: ignore[union-attr]
    latents_BDRS = student.encode_latents(images_BCHW)
    rows = latents_BDRS.permute(0, 2, 3, 1).flatten(0, 2)
    student.codebook_KD.copy_(rows[:32] + 0.1)
    codes_BRS = student.nearest(latents_BDRS)
    decoded_BCHW = student.decode_latents(student.look_up(codes_BRS)).clamp(0, 1)
    codec = student.finished()
    assert len(set(codes_BRS.flatten().tolist())) > 8
    assert torch.equal(codec.encode(images_BCHW), codes_BRS.flatten(1))
    torch.testing.assert_close(codec.decode(codes_BRS.flatten(1)), decoded_BCHW)
    assert not any(parameter.requires_grad for parameter in codec.parameters())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image_size": 96}, "--image-size 96: a discrete-vae needs images of 2"),
        ({"channels": 4}, "--channels 4: a discrete-vae needs at least 6"),
        ({"encoder": "patches"}, "--encoder patches: a discrete-vae has a convolutional encoder"),
    ],
)
def test_options_that_make_none_are_refused(options: dict[str, int | str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TrainCodecConfig(kind="discrete-vae", **options)  # type: ignore[arg-type]
    TrainCodecConfig(kind="vq", **options)  # type: ignore[arg-type]

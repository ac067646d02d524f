"""Our own codec: shapes, limits, its fingerprint, its files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.core.errors import ModelError
from pipeline.models.codecs.load import CODEC_JSON, CODEC_WEIGHTS, load_codec, save_codec
from pipeline.models.codecs.vq import VQCodec, VQConfig

SMALL = VQConfig(image_size=32, num_tokens=11, code_dim=3, channels=4)


def make_codec(seed: int = 0, config: VQConfig = SMALL) -> VQCodec:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        codec = VQCodec(config)
        codec.codebook_KD.normal_()
    return codec.eval()


def test_images_become_codes_and_codes_images() -> None:
    codec = make_codec()
    images_BCHW = torch.rand(5, 3, 32, 32)
    codes_BN = codec.encode(images_BCHW)
    assert (codes_BN.dtype, tuple(codes_BN.shape)) == (torch.int64, (5, 4))
    assert codec.grid == (2, 2)
    assert codec.num_codes == 4
    assert codes_BN.unique().numel() > 1
    decoded_BCHW = codec.decode(codes_BN)
    assert decoded_BCHW.shape == images_BCHW.shape
    assert 0 <= decoded_BCHW.min() <= decoded_BCHW.max() <= 1


def test_a_code_is_the_entry_with_the_least_distance() -> None:
    codec = make_codec()
    latents_BDRS = torch.randn(3, 3, 2, 2)
    distances = torch.cdist(latents_BDRS.permute(0, 2, 3, 1).reshape(-1, 3), codec.codebook_KD)
    assert torch.equal(codec.nearest(latents_BDRS).flatten(), distances.argmin(1))


def test_codes_run_row_by_row_from_the_top_left(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = make_codec()
    image_BCHW = torch.zeros(1, 3, 32, 32)
    latents_BDRS = codec.look_up(torch.tensor([[[1, 2], [3, 4]]]))
    assert torch.equal(latents_BDRS[0, :, 0, 1], codec.codebook_KD[2])
    monkeypatch.setattr(codec, "encode_latents", lambda images_BCHW: latents_BDRS)
    assert codec.encode(image_BCHW).tolist() == [[1, 2, 3, 4]]


def test_the_linear_path_gives_back_what_its_components_span() -> None:
    codec = make_codec()
    shades_B3 = torch.rand(8, 3)
    images_BCHW = shades_B3[:, :, None, None].expand(8, 3, 32, 32)
    codec.set_patches(images_BCHW.split(3))
    latents_BDRS = codec.patch_encoder(images_BCHW - 0.5)
    assert latents_BDRS.square().mean().item() == pytest.approx(1, rel=0.01)
    torch.testing.assert_close(codec.patch_decoder(latents_BDRS) + 0.5, images_BCHW)


def test_the_convolutions_are_silent_before_training() -> None:
    codec = make_codec()
    assert codec.encoder is not None
    images_BCHW = torch.rand(2, 3, 32, 32)
    assert torch.equal(codec.encode_latents(images_BCHW), codec.patch_encoder(images_BCHW - 0.5))
    latents_BDRS = torch.randn(2, 3, 2, 2)
    assert torch.equal(codec.decode_latents(latents_BDRS), codec.patch_decoder(latents_BDRS) + 0.5)


@pytest.mark.parametrize("codes", [[[0, 1, 2]], [[0, 1, 2, 11]], [[0, 1, 2, -1]]])
def test_codes_that_do_not_fit_are_refused(codes: list[list[int]]) -> None:
    with pytest.raises(ModelError, match=r"codebook|expected"):
        make_codec().decode(torch.tensor(codes))


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ModelError, match="expected"):
        make_codec().encode(torch.rand(1, 3, 48, 48))
    with pytest.raises(ModelError, match="multiple of 16"):
        VQCodec(VQConfig(image_size=40))


def test_the_fingerprint_names_architecture_and_weights() -> None:
    one, same, other = make_codec(0), make_codec(0), make_codec(1)
    assert one.fingerprint == same.fingerprint
    assert len({one.fingerprint, other.fingerprint}) == 2
    same.codebook_KD[0, 0] += 1e-6
    assert one.fingerprint != same.fingerprint
    same.load_state_dict(one.state_dict())
    same.config = VQConfig(image_size=48, num_tokens=11, code_dim=3, channels=4)
    assert one.fingerprint != same.fingerprint


def test_a_saved_codec_comes_back_and_has_the_same_bytes_twice(tmp_path: Path) -> None:
    codec = make_codec()
    save_codec(codec, tmp_path / "a")
    save_codec(codec, tmp_path / "b")
    loaded = load_codec(tmp_path / "a")
    images_BCHW = torch.rand(2, 3, 32, 32)
    assert loaded.fingerprint == codec.fingerprint
    assert torch.equal(loaded.encode(images_BCHW), codec.encode(images_BCHW))
    for name in (CODEC_JSON, CODEC_WEIGHTS):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_folder_without_a_codec_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a codec's folder"):
        load_codec(tmp_path)


def test_weights_that_do_not_fit_name_the_first_tensor(tmp_path: Path) -> None:
    save_codec(make_codec(), tmp_path)
    save_codec(
        make_codec(config=VQConfig(image_size=32, num_tokens=12, code_dim=3, channels=4)),
        tmp_path / "b",
    )
    (tmp_path / "b" / CODEC_WEIGHTS).rename(tmp_path / CODEC_WEIGHTS)
    with pytest.raises(
        ModelError, match=r"codebook_KD has the shape \(12, 3\), expected \(11, 3\)"
    ):
        load_codec(tmp_path)


def test_changed_weights_are_noticed(tmp_path: Path) -> None:
    save_codec(make_codec(0), tmp_path)
    save_codec(make_codec(1), tmp_path / "b")
    (tmp_path / "b" / CODEC_WEIGHTS).rename(tmp_path / CODEC_WEIGHTS)
    with pytest.raises(ModelError, match="fingerprint"):
        load_codec(tmp_path)


def test_half_a_weights_file_is_refused(tmp_path: Path) -> None:
    save_codec(make_codec(), tmp_path)
    path = tmp_path / CODEC_WEIGHTS
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelError, match="can't be read as weights"):
        load_codec(tmp_path)


def test_decoded_images_lie_in_0_to_1_whatever_the_codebook_says() -> None:
    codec = make_codec()
    codec.codebook_KD.mul_(1000)
    decoded = codec.decode(torch.arange(11)[:, None].repeat(1, 4))
    assert (decoded.min().item(), decoded.max().item()) == (0.0, 1.0)

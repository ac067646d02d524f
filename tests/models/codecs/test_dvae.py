"""OpenAI's discrete VAE: its pickled modules, and the codes and images of the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.core.errors import ModelError
from pipeline.models.checkpoints.export import dalle_pytorch_codec
from pipeline.models.codecs.dvae import load_openai_dvae
from pipeline.models.codecs.load import load_codec, save_codec
from tests.oracles.codecs import assert_same_codes, dall_e, dalle_pytorch


@pytest.fixture
def reference() -> Any:
    """dalle-pytorch's wrapper around OpenAI's modules, small and with random weights."""
    modules = dall_e()
    wrapper_class = dalle_pytorch().OpenAIDiscreteVAE
    wrapper = wrapper_class.__new__(wrapper_class)  # its own way is a download
    nn.Module.__init__(wrapper)
    wrapper.enc = modules.Encoder(n_hid=64, vocab_size=512)
    wrapper.dec = modules.Decoder(n_hid=64, n_init=16, vocab_size=512)
    for name, parameter in wrapper.named_parameters():
        if name.endswith(".b"):
            nn.init.normal_(parameter, std=0.1)
    wrapper.num_tokens = 512
    return wrapper.eval()


def write_files(folder: Path, reference: Any, *, zipped: bool = True) -> tuple[Path, Path]:
    paths = folder / "encoder.pkl", folder / "decoder.pkl"
    for path, module in zip(paths, (reference.enc, reference.dec), strict=True):
        torch.save(module, path, _use_new_zipfile_serialization=zipped)
    return paths


def widely_different(count: int, side: int) -> Tensor:
    """Pictures of blots of colour, for more than a few codes."""
    return nn.functional.interpolate(torch.rand(count, 3, side // 8, side // 8), size=(side, side))


@torch.no_grad()
def test_codes_and_images_are_those_of_the_reference(tmp_path: Path, reference: Any) -> None:
    images_BCHW = widely_different(4, 64)
    codec = load_openai_dvae(*write_files(tmp_path, reference), image_size=64)
    assert (codec.num_tokens, codec.downsampling, codec.grid) == (512, 8, (8, 8))
    codes_BN = reference.get_codebook_indices(images_BCHW)
    logits_BKRS = reference.enc(0.8 * images_BCHW + 0.1)
    costs_BNK = -logits_BKRS.flatten(2).transpose(1, 2)
    assert_same_codes(codec.encode(images_BCHW), codes_BN, costs_BNK)
    decoded_BCHW = reference.decode(codes_BN)
    assert decoded_BCHW.std() > 0.01
    torch.testing.assert_close(codec.decode(codes_BN), decoded_BCHW, atol=5e-5, rtol=0)


def test_the_older_format_of_torch_is_read_too(tmp_path: Path, reference: Any) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    for folder in (new, old):
        folder.mkdir()
    codec = load_openai_dvae(*write_files(new, reference, zipped=True))
    assert codec.image_size == 256
    older = load_openai_dvae(*write_files(old, reference, zipped=False))
    assert older.fingerprint == codec.fingerprint


def test_a_codec_survives_the_way_through_a_folder(tmp_path: Path, reference: Any) -> None:
    codec = load_openai_dvae(*write_files(tmp_path, reference), image_size=32)
    save_codec(codec, tmp_path / "codec")
    loaded = load_codec(tmp_path / "codec")
    images_BCHW = torch.rand(2, 3, 32, 32)
    assert loaded.fingerprint == codec.fingerprint
    assert torch.equal(loaded.encode(images_BCHW), codec.encode(images_BCHW))


class Runs(nn.Module):
    """A module whose pickle tries to write a file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_module_that_wants_to_run_code_is_refused_and_named(
    tmp_path: Path, reference: Any, zipped: bool
) -> None:
    reference.enc.blocks.group_1.add_module("pool", Runs(tmp_path / "ran"))
    with pytest.raises(ModelError, match=r"encoder.pkl is refused: its pickle refers to .*pathlib"):
        load_openai_dvae(*write_files(tmp_path, reference, zipped=zipped))
    assert not (tmp_path / "ran").exists()


def test_halves_that_do_not_fit_name_the_tensor(tmp_path: Path, reference: Any) -> None:
    encoder_path, decoder_path = write_files(tmp_path, reference)
    with pytest.raises(ModelError, match="not the two halves"):
        load_openai_dvae(decoder_path, encoder_path)
    torch.save(dall_e().Decoder(n_hid=64, n_init=16, vocab_size=600), decoder_path)
    with pytest.raises(ModelError, match=r"decoder.input.weight .*\(16, 600, 1, 1\)"):
        load_openai_dvae(encoder_path, decoder_path)


def test_what_is_no_module_is_refused(tmp_path: Path, reference: Any) -> None:
    encoder_path, decoder_path = write_files(tmp_path, reference)
    torch.save({"weight": torch.zeros(3)}, encoder_path)
    with pytest.raises(ModelError, match="expected OpenAI's pickled encoder"):
        load_openai_dvae(encoder_path, decoder_path)
    with pytest.raises(ModelError, match="nowhere"):
        load_openai_dvae(tmp_path / "nowhere.pkl", decoder_path)


def test_its_tensors_go_into_a_dalle_pt_under_the_published_names(
    tmp_path: Path, reference: Any
) -> None:
    codec = load_openai_dvae(*write_files(tmp_path, reference))
    written = dalle_pytorch_codec(codec)
    assert written is not None
    assert (written.class_name, written.params) == ("OpenAIDiscreteVAE", None)
    state = reference.state_dict()
    assert written.weights.keys() == state.keys()
    assert all(torch.equal(written.weights[name], state[name]) for name in state)

"""codec.json and checkpoint.json edited by hand: the error names the field."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.core.errors import ModelError
from pipeline.models.checkpoints.native import (
    MODEL_FILE,
    CheckpointInfo,
    load_dalle,
    read_info,
    write_checkpoint,
)
from pipeline.models.codecs.base import Codec
from pipeline.models.codecs.discrete_vae import DiscreteVAE, DiscreteVAEConfig
from pipeline.models.codecs.dvae import OpenAIDVAE, OpenAIDVAEConfig
from pipeline.models.codecs.load import CODEC_JSON, find_codec, load_codec, save_codec
from pipeline.models.codecs.vq import VQCodec, VQConfig
from pipeline.models.codecs.vqgan import VQGAN, VQGANConfig
from pipeline.models.dalle.config import DalleConfig
from pipeline.models.dalle.model import Dalle

CPU = torch.device("cpu")
NOTHING = object()
WRONG: tuple[Any, ...] = (
    NOTHING,
    None,
    "text",
    [],
    {},
    True,
    -1,
    10**9,
    10**30,
    0.5,
    float("nan"),
    float("inf"),
)
VQGAN_CONFIG = VQGANConfig(
    num_tokens=16,
    code_dim=8,
    channels=32,
    multipliers=(1, 1),
    blocks=1,
    attention_sizes=(8,),
    training_size=16,
    latents=8,
    image_size=16,
)
CODECS: dict[str, Callable[[], Codec]] = {
    "vq": lambda: VQCodec(VQConfig(image_size=32, num_tokens=16, code_dim=4, channels=4)),
    "vqgan": lambda: VQGAN(VQGAN_CONFIG),
    "openai-dvae": lambda: OpenAIDVAE(
        OpenAIDVAEConfig(
            num_tokens=16, encoder_channels=4, decoder_channels=4, code_channels=4, image_size=16
        )
    ),
    "discrete-vae": lambda: DiscreteVAE(
        DiscreteVAEConfig(image_size=16, num_tokens=16, codebook_dim=4, num_layers=1, hidden_dim=4)
    ),
}
MODEL = DalleConfig(
    dim=8,
    depth=1,
    heads=1,
    dim_head=8,
    text_seq_len=12,
    num_text_tokens=5,
    num_image_tokens=6,
    image_fmap_size=2,
    attn_types=("full", "sparse"),
    shared_attn_ids=(0,),
)
TRAINING = {
    "passes": {"cc12m": 1},
    "dataset": "cc12m",
    "scaler": {
        "scale": 65536.0,
        "growth_factor": 2.0,
        "backoff_factor": 0.5,
        "growth_interval": 2000,
        "_growth_tracker": 0,
    },
    "plateau": {
        "rate": 0.1,
        "best": None,
        "cooldown_counter": 0,
        "num_bad_epochs": 0,
        "last_epoch": 0,
    },
}


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where in a JSON value something else could be put."""
    if path:
        yield path
    items: Iterable[tuple[str | int, Any]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        yield from places(inner, (*path, key))


def edited(value: Any, path: tuple[str | int, ...], new: Any) -> Any:
    copy = json.loads(json.dumps(value))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    if new is NOTHING:
        del inner[path[-1]]
    else:
        inner[path[-1]] = new
    return copy


def assert_refused_or_the_same(
    read: Callable[[], object], path: Path, place: tuple[str | int, ...], new: Any
) -> bool:
    """Whether a change is refused with the file's name, and the field's unless nothing is left to name."""
    try:
        read()
    except ModelError as error:
        words = str(error)
        assert str(path) in words or str(path.parent) in words, words
        assert len(words) < 1500
        named = [part for part in place if isinstance(part, str)]
        # Another architecture, if sound, shows in tensors; another hash in the file that has it.
        shown = ("does not match", "don't match", "sha256 differs", "has the fingerprint")
        assert any(part in words for part in (*named, *shown)), (words, place)
        return True
    return False


@pytest.mark.parametrize("family", CODECS)
def test_a_codec_json_edited_by_hand_is_refused_by_field(family: str, tmp_path: Path) -> None:
    save_codec(CODECS[family](), tmp_path)
    path = tmp_path / CODEC_JSON
    whole = json.loads(path.read_text())
    taken = []
    for place in places(whole):
        for new in WRONG:
            changed = edited(whole, place, new)
            if changed == whole:
                continue
            path.write_text(json.dumps(changed))
            if not assert_refused_or_the_same(lambda: load_codec(tmp_path), path, place, new):
                taken.append((place, new))
    assert not taken


def test_a_checkpoint_json_edited_by_hand_is_refused_by_field(tmp_path: Path) -> None:
    info = CheckpointInfo(
        step=20,
        epoch=1,
        consumed=3,
        model=MODEL,
        codec="c",
        tokenizer="t",
        shards="s",
        training=TRAINING,
    )
    folder = tmp_path / "step-000020"
    torch.manual_seed(0)
    write_checkpoint(folder, info, {MODEL_FILE: Dalle(MODEL).state_dict()})
    path = folder / "checkpoint.json"
    whole = json.loads(path.read_text())
    taken = []
    for place in places(whole):
        for new in WRONG:
            changed = edited(whole, place, new)
            if changed == whole:
                continue
            path.write_text(json.dumps(changed))
            if not assert_refused_or_the_same(
                lambda: load_dalle(folder, device=CPU), path, place, new
            ):
                taken.append((place, new))
    assert [change for change in taken if not is_plausible(whole, *change)] == []


def is_plausible(whole: Any, place: tuple[str | int, ...], new: Any) -> bool:
    """Whether another training could have written this: nothing in the file tells."""
    old = whole
    for key in place:
        old = old[key]
    if place[0] == "model" and len(place) == 2:
        same_type = type(new) is type(old) and isinstance(old, (bool, float))
        same_type |= isinstance(old, float) and type(new) is int
        return same_type or (place[1] == "shared_attn_ids" and new is None)
    if place[:2] == ("model", "shared_attn_ids"):
        return isinstance(new, (int, str))
    if new is NOTHING:
        return place[0] == "training" or place[:2] == ("model", "attn_types")
    optional = ("training", "dataset", "plateau", "scaler", "passes", "best")
    return type(new) in (type(old), int) or (place[-1] in optional and new in (None, {}, 0.5))


@pytest.mark.parametrize("name", list(DalleConfig.__dataclass_fields__))
def test_no_hyper_parameter_has_a_default_in_a_checkpoint(name: str, tmp_path: Path) -> None:
    info = CheckpointInfo(
        step=1, epoch=0, consumed=1, model=MODEL, codec="c", tokenizer="t", shards="s"
    )
    write_checkpoint(tmp_path / "c", info, {})
    path = tmp_path / "c/checkpoint.json"
    path.write_text(json.dumps(edited(json.loads(path.read_text()), ("model", name), NOTHING)))
    with pytest.raises(ModelError, match=rf"checkpoint\.json: model\.{name} is missing"):
        read_info(tmp_path / "c")


@pytest.mark.parametrize(
    "name", ["../other/model.safetensors", "/etc/passwd", "", "a.json", "x" * 99]
)
def test_a_checkpoint_names_no_file_outside_of_its_folder(name: str, tmp_path: Path) -> None:
    info = CheckpointInfo(
        step=1, epoch=0, consumed=1, model=MODEL, codec="c", tokenizer="t", shards="s"
    )
    write_checkpoint(tmp_path / "c", info, {})
    path = tmp_path / "c/checkpoint.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "files": {name: "0" * 64}}))
    with pytest.raises(ModelError, match=r"checkpoint\.json lists .* not a file of a checkpoint"):
        read_info(tmp_path / "c")


def test_a_damaged_codec_does_not_hide_the_others(tmp_path: Path) -> None:
    codec = CODECS["vq"]()
    save_codec(codec, tmp_path / "good")
    save_codec(codec, tmp_path / "bad")
    (tmp_path / "bad" / CODEC_JSON).write_text("[")
    assert find_codec(tmp_path, codec.fingerprint) == tmp_path / "good"
    with pytest.raises(ModelError, match="the workspace has: good"):
        find_codec(tmp_path, "0" * 64)


@pytest.mark.parametrize("data", [b"", b"null", b"[" * 100_000, b"\xff\xfe", b"9" * 5000, b"{}\0"])
def test_what_is_no_json_object_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / CODEC_JSON).write_bytes(data)
    with pytest.raises(ModelError, match=r"codec\.json"):
        load_codec(tmp_path)
    (tmp_path / "checkpoint.json").write_bytes(data)
    with pytest.raises(ModelError, match=r"checkpoint\.json"):
        read_info(tmp_path)

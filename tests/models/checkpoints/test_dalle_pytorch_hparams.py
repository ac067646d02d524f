"""Third-party hyper-parameters: other number types, text for lists, and invalid values."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.core.errors import ModelError
from pipeline.models.checkpoints.foreign import read_foreign
from pipeline.models.checkpoints.native import build_dalle
from pipeline.models.dalle.config import DalleConfig
from tests.models.checkpoints.test_dalle_pytorch_checkpoints import make_config
from tests.oracles.checkpoints import PLAIN, saved_dict, trained_stock
from tests.oracles.dalle import stock_dalle

ALL = make_config(
    {
        "attn_types": ("full", "axial_row"),
        "rotary_emb": True,
        "stable": True,
        "shared_attn_ids": (0, 1),
        "attn_dropout": 0.25,
        "loss_img_weight": 3.0,
    }
)
NUMBERS: dict[str, Callable[[Any], Any]] = {
    "numpy": lambda value: np.asarray(value)[()],
    "numpy, 32 bits": lambda value: np.asarray(
        value, dtype=np.int32 if isinstance(value, int) else np.float32
    )[()],
    "arrays of numpy": lambda value: np.asarray([value]),
    "tensors": torch.tensor,
    "floats": float,
}


@pytest.fixture(scope="module")
def saved() -> dict[str, Any]:
    return saved_dict(ALL, trained_stock(ALL)[0])


def load(path: Path) -> None:
    found = read_foreign(path)
    build_dalle(found.config, found.weights, path)


def read(folder: Path, saved: dict[str, Any], hparams: Any) -> DalleConfig:
    torch.save({**saved, "hparams": hparams}, folder / "dalle.pt")
    return read_foreign(folder / "dalle.pt").config


@pytest.mark.parametrize("kind", NUMBERS)
def test_a_number_is_a_number_whatever_its_type(
    kind: str, saved: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hparams = {
        name: NUMBERS[kind](value) if isinstance(value, (int, float)) else value
        for name, value in saved["hparams"].items()
    }
    hparams["shared_attn_ids"] = tuple(NUMBERS[kind](number) for number in (0, 1))
    assert read(tmp_path, saved, hparams) == ALL
    assert "but the tensors have" not in caplog.text


@pytest.mark.parametrize(
    "types",
    [
        "full,axial_row",
        "full, axial_row",
        " full ,axial_row, ",
        ["full", "axial_row"],
        ("full, axial_row",),
        np.array(["full", "axial_row"]),
    ],
    ids=repr,
)
def test_kinds_of_attention_come_as_a_list_or_as_text(
    types: Any, saved: dict[str, Any], tmp_path: Path
) -> None:
    assert read(tmp_path, saved, saved["hparams"] | {"attn_types": types}) == ALL


@pytest.mark.parametrize("types", ["full, full", None, [], "", ("full",)], ids=repr)
def test_without_another_kind_attention_is_full(types: Any, tmp_path: Path) -> None:
    saved = saved_dict(PLAIN, stock_dalle(PLAIN))
    found = read(tmp_path, saved, saved["hparams"] | {"attn_types": types})
    assert found.layer_types == ("full", "full")


@pytest.mark.parametrize(
    ("ids", "expected"),
    [("0,1", ("0", "1")), ("a, b", ("a", "b")), (["0", 1], ("0", 1)), (None, None)],
    ids=repr,
)
def test_shared_layers_come_as_a_list_or_as_text(
    ids: Any, expected: Any, saved: dict[str, Any], tmp_path: Path
) -> None:
    found = read(tmp_path, saved, saved["hparams"] | {"shared_attn_ids": ids})
    assert found.shared_attn_ids == expected


@pytest.mark.parametrize("absent", [False, True])
def test_none_means_the_default(absent: bool, saved: dict[str, Any], tmp_path: Path) -> None:
    names = ("loss_img_weight", "attn_dropout", "ff_dropout", "stable", "shared_ff_ids")
    hparams = saved["hparams"] | dict.fromkeys(names)
    if absent:
        hparams = {name: value for name, value in hparams.items() if name not in names}
    found = read(tmp_path, saved, hparams)
    assert (found.loss_img_weight, found.attn_dropout, found.stable) == (7.0, 0.0, False)


def test_a_namespace_is_a_table(saved: dict[str, Any], tmp_path: Path) -> None:
    assert read(tmp_path, saved, argparse.Namespace(**saved["hparams"])) == ALL


WRONG: tuple[Any, ...] = (
    "text",
    [],
    {},
    True,
    -1,
    10**30,
    0.5,
    float("nan"),
    float("inf"),
    b"b",
    {1},
)


@pytest.mark.parametrize(
    "name", ["loss_img_weight", "attn_dropout", "heads", "text_seq_len", "attn_types", "stable"]
)
def test_a_value_that_is_none_of_these_is_refused_by_name(
    name: str, saved: dict[str, Any], tmp_path: Path
) -> None:
    for value in WRONG:
        try:
            read(tmp_path, saved, saved["hparams"] | {name: value})
        except ModelError as error:
            assert str(tmp_path / "dalle.pt") in str(error)  # noqa: PT017
            assert f"hparams.{name}" in str(error) or "channels of attention" in str(error)  # noqa: PT017
        else:
            fits = isinstance(value, (float, bool)) or value in ([], {})
            assert fits, (name, value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hparams": 3}, "no table hparams"),
        ({"hparams": [1]}, "no table hparams"),
        ({"weights": []}, "lacks `hparams` or `weights`"),
        ({"weights": {1: 2}}, "not a state dict"),
        ({"weights": {"to_logits.1.weight": "text"}}, "not those of a DALLE"),
        ({"opt_state": "text"}, None),
        ({"opt_state": {"param_groups": 3}}, None),
        ({"opt_state": {"param_groups": [{"lr": "x"}], "state": 7}}, None),
        ({"epoch": "four", "version": 3, "vae_class_name": 5}, None),
        ({"epoch": float("nan"), "version": "x.y"}, None),
    ],
    ids=str,
)
def test_other_parts_may_be_anything(
    change: dict[str, Any], words: str | None, saved: dict[str, Any], tmp_path: Path
) -> None:
    torch.save({**saved, **change}, tmp_path / "dalle.pt")
    if words is None:
        assert read_foreign(tmp_path / "dalle.pt").config.dim == ALL.dim
        return
    with pytest.raises(ModelError, match=words):
        read_foreign(tmp_path / "dalle.pt")


@pytest.mark.parametrize("shape", [(), (3,), (0, 3), (3, 0), (2, 2), (2, 2, 2)], ids=str)
def test_a_tensor_of_any_other_shape_is_refused(
    shape: tuple[int, ...], saved: dict[str, Any], tmp_path: Path
) -> None:
    """Whichever it is: the sizes of the model come from some of them."""
    for name in saved["weights"]:
        if name.startswith("vae.") or name.endswith("num_batches_tracked"):
            continue
        weights = {**saved["weights"], name: torch.ones(shape)}
        torch.save({**saved, "weights": weights}, tmp_path / "dalle.pt")
        with pytest.raises(ModelError, match=r"dalle\.pt"):
            load(tmp_path / "dalle.pt")


def test_a_layer_beyond_the_last_is_no_model(saved: dict[str, Any], tmp_path: Path) -> None:
    name = "transformer.layers.layers.999999.0.fn.fn.fn.to_qkv.weight"
    weights = {**saved["weights"], name: torch.ones(2, 2)}
    torch.save({**saved, "weights": weights}, tmp_path / "dalle.pt")
    with pytest.raises(ModelError, match="layers up to 999999, but none of layer 2"):
        read_foreign(tmp_path / "dalle.pt")

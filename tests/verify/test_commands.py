"""The command that makes a folder again, word by word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.app.stages import STAGES
from pipeline.core.config import declared_options
from pipeline.core.inventory import Folder
from pipeline.core.storage import make_manifest
from pipeline.verify.commands import command_for


def command(
    contract: str, name: str, root: Path, config: dict[str, Any] | None, *inputs: str
) -> list[str]:
    """The words of the command for a folder with these options and inputs; without options if it has none."""
    manifest = None
    if config is not None:
        hashes = dict.fromkeys(inputs, "0" * 64)
        manifest = make_manifest(contract, config=config, inputs=hashes, counts={}, files=())
    folder = Folder(contract=contract, name=name, path=root / name, manifest=manifest, problem=None)
    words = command_for(folder, root, STAGES).split()
    assert words[:1] == ["pipeline"]
    assert words[words.index("--workspace") + 1] == str(root)
    return [word for word in words[1:] if word not in ("--workspace", str(root))]


@pytest.mark.parametrize(
    ("called", "inputs", "words"),
    [
        ("openai", ("encoder.pkl", "decoder.pkl"), ["openai"]),
        ("vqgan", ("file-1", "file-2"), ["vqgan:FILE,FILE"]),
        ("mine", ("vqgan-config", "vqgan-checkpoint"),
         ["mine", "--vqgan-config", "FILE", "--vqgan-checkpoint", "FILE"]),
    ],
)  # fmt: skip
def test_a_third_party_codec_is_imported_again_by_encode(
    tmp_path: Path, called: str, inputs: tuple[str, ...], words: list[str]
) -> None:
    config = {"family": "vqgan", "name": called, "image_size": 256}
    found = command("codec", f"codecs/{called}-0123456789ab", tmp_path, config, *inputs)
    assert found == ["encode", "--codec", *words]


def test_a_codec_of_ours_is_trained_again_with_its_options(tmp_path: Path) -> None:
    default = declared_options(STAGES["train-codec"].config)["batch_size"].default
    config = {"name": "mine", "steps": 7, "batch_size": default}
    found = command("codec", "codecs/mine", tmp_path, config, "dedupe")
    assert found == ["train-codec", "--name", "mine", "--steps", "7"]


def test_without_a_manifest_only_the_name_is_known(tmp_path: Path) -> None:
    assert command("codec", "codecs/small", tmp_path, None) == ["train-codec", "--name", "small"]
    assert command("codes", "codes/small-1", tmp_path, None) == ["encode"]


def test_the_family_of_another_folder_does_not_make_it_a_codec(tmp_path: Path) -> None:
    config = {"family": "vqgan", "name": "a"}
    assert command("run", "runs/a", tmp_path, config)[0] == "train"

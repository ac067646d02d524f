"""Third-party codecs for `encode`: files, published names, and mismatches."""

from __future__ import annotations

import functools
import http.server
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from pipeline.core.errors import ConfigError, ModelError
from pipeline.core.storage import read_manifest
from pipeline.core.workspace import Workspace
from pipeline.encode import sources
from pipeline.encode.config import EncodeConfig
from pipeline.encode.run import run
from pipeline.models.codecs import families, published
from pipeline.models.codecs.discrete_vae import DiscreteVAE, DiscreteVAEConfig
from pipeline.models.codecs.load import find_codec, load_codec
from pipeline.models.codecs.pixels import read_square, to_images
from pipeline.models.codecs.published import PublishedCodec
from pipeline.models.codecs.vqgan import VQGAN
from pipeline.models.codecs.vqgan_files import load_vqgan, read_vqgan_config
from pipeline.models.published import PublishedFile
from tests.helpers.codecs import vqgan_settings, write_yaml

MakeWorkspace = Callable[..., Workspace]


def write_pair(folder: Path, *, seed: int = 0, **ddconfig: Any) -> tuple[Path, Path]:
    """A YAML and a checkpoint with random weights, as published."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = write_yaml(folder / "model.yaml", vqgan_settings(**ddconfig))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        codec = VQGAN(read_vqgan_config(settings))
    torch.save({"state_dict": codec.state_dict()}, folder / "last.ckpt")
    return settings, folder / "last.ckpt"


def encode_pair(workspace: Workspace, pair: tuple[Path, Path], **options: Any) -> Any:
    return run(
        EncodeConfig(
            workspace=workspace.root, vqgan_config=pair[0], vqgan_checkpoint=pair[1], **options
        )
    )


def only(folder: Path) -> Path:
    (found,) = folder.iterdir()
    return found


def codes_in(folder: Path) -> dict[str, list[int]]:
    rows = pq.read_table(folder / "00000.parquet").to_pylist()
    return {row["pixel_sha256"]: row["codes"] for row in rows}


def test_a_pair_of_files_encodes_as_the_codec_read_from_it(
    make_workspace: MakeWorkspace, tmp_path: Path
) -> None:
    workspace, pair = make_workspace(6), write_pair(tmp_path / "files")
    report = encode_pair(workspace, pair)
    assert report.outcome == "done"
    folder = only(workspace.root / "codes")
    assert folder.name.startswith("vqgan-")
    codec, codes = load_vqgan(*pair), codes_in(folder)
    segment = (workspace.segments / "00000.tar").read_bytes()
    for row in pq.read_table(workspace.dedupe / "kept" / "00000.parquet").to_pylist():
        data = segment[row["offset"] : row["offset"] + row["bytes"]]
        codes_BN = codec.encode(to_images(read_square(data, 32)[None]))
        assert codes[row["pixel_sha256"]] == codes_BN[0].tolist()


def test_it_is_imported_into_the_workspace_where_later_stages_find_it(
    make_workspace: MakeWorkspace, tmp_path: Path
) -> None:
    workspace, pair = make_workspace(3), write_pair(tmp_path / "files")
    encode_pair(workspace, pair)
    fingerprint = load_vqgan(*pair).fingerprint
    codes = read_manifest(only(workspace.root / "codes"), "codes")
    assert codes.details["codec"]["fingerprint"] == fingerprint
    home = find_codec(workspace.root / "codecs", fingerprint)
    assert home.name == f"vqgan-{fingerprint[:12]}"
    assert load_codec(home).fingerprint == fingerprint
    assert f"codecs/{home.name}" in codes.inputs
    assert set(read_manifest(home, "codec").inputs) == {"vqgan-config", "vqgan-checkpoint"}


def test_a_second_run_reads_no_pickle(
    make_workspace: MakeWorkspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, pair = make_workspace(3), write_pair(tmp_path / "files")
    encode_pair(workspace, pair)
    monkeypatch.setattr(sources, "LOADERS", {})
    assert encode_pair(workspace, pair).outcome == "unchanged"


def test_the_kind_and_its_files_name_a_codec(make_workspace: MakeWorkspace, tmp_path: Path) -> None:
    workspace, (yaml, checkpoint) = make_workspace(3), write_pair(tmp_path / "files")
    config = EncodeConfig(workspace=workspace.root, codec=f"vqgan:{yaml},{checkpoint}")
    assert run(config).outcome == "done"
    home = only(workspace.root / "codecs")
    assert home.name == f"vqgan-{load_vqgan(yaml, checkpoint).fingerprint[:12]}"
    assert set(read_manifest(home, "codec").inputs) == {"file-1", "file-2"}
    assert run(config).outcome == "unchanged"


@pytest.mark.parametrize(
    ("codec", "message"),
    [
        ("vqgn:a,b", "no kind of codec 'vqgn'.*vqgan"),
        ("vq:a", "no kind of codec 'vq' is read from files"),
        ("vqgan:a.yaml", "found 1 files, expected vqgan:the YAML,the checkpoint"),
        ("discrete-vae:", "discrete-vae:"),
        (f"vq:{'a' * 5000}", "no kind of codec 'vq' is read from files"),
    ],
)
def test_a_kind_that_does_not_fit_is_refused(
    make_workspace: MakeWorkspace, codec: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(EncodeConfig(workspace=make_workspace(1).root, codec=codec))


def test_other_weights_and_other_sizes_are_kept_apart(
    make_workspace: MakeWorkspace, tmp_path: Path
) -> None:
    workspace = make_workspace(3)
    encode_pair(workspace, write_pair(tmp_path / "one"))
    encode_pair(workspace, write_pair(tmp_path / "two", seed=1))
    encode_pair(workspace, write_pair(tmp_path / "one"), image_size=64)
    grids = {
        tuple(read_manifest(folder, "codes").details["codec"]["grid"])
        for folder in (workspace.root / "codes").iterdir()
    }
    assert len(list((workspace.root / "codes").iterdir())) == 3
    assert len(list((workspace.root / "codecs").iterdir())) == 3
    assert grids == {(8, 8), (16, 16)}


def test_a_vae_of_dalle_pytorch_encodes(make_workspace: MakeWorkspace, tmp_path: Path) -> None:
    workspace = make_workspace(4)
    hparams: dict[str, Any] = {"image_size": 32, "num_layers": 2, "num_tokens": 24, "hidden_dim": 8}
    codec = DiscreteVAE(DiscreteVAEConfig(**hparams))
    torch.save({"hparams": hparams, "weights": codec.state_dict()}, tmp_path / "vae.pt")
    run(EncodeConfig(workspace=workspace.root, vae=tmp_path / "vae.pt", codec="mine"))
    folder = only(workspace.root / "codes")
    assert folder.name.startswith("mine-")
    assert {len(codes) for codes in codes_in(folder).values()} == {64}


# --- Published names -----------------------------------------------------------------------------


@pytest.fixture
def publisher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the files of `vqgan_imagenet_f16_1024`, served by a real server."""
    folder = tmp_path / "published"
    write_pair(folder)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    monkeypatch.setattr(handler.func, "log_message", lambda *_: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        files = (
            PublishedFile(name="v.yaml", url=f"{address}/model.yaml"),
            PublishedFile(name="v.ckpt", url=f"{address}/last.ckpt"),
        )
        codecs = {"vqgan_imagenet_f16_1024": PublishedCodec(family="vqgan", files=files)}
        for module in (published, sources):
            monkeypatch.setattr(module, "PUBLISHED_CODECS", codecs)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder
        server.shutdown()


def test_a_published_name_is_fetched_once(
    make_workspace: MakeWorkspace, publisher: Path, tmp_path: Path
) -> None:
    workspace = make_workspace(3)
    config = EncodeConfig(
        workspace=workspace.root, codec="vqgan_imagenet_f16_1024", cache=tmp_path / "cache"
    )
    assert run(config).outcome == "done"
    assert only(workspace.root / "codes").name.startswith("vqgan_imagenet_f16_1024-")
    for path in publisher.iterdir():
        path.unlink()
    assert run(config).outcome == "unchanged"


@pytest.mark.usefixtures("publisher")
def test_offline_it_says_where_to_put_the_file(
    make_workspace: MakeWorkspace, publisher: Path, tmp_path: Path
) -> None:
    (publisher / "last.ckpt").unlink()
    config = EncodeConfig(
        workspace=make_workspace(1).root,
        codec="vqgan_imagenet_f16_1024",
        cache=tmp_path / "cache",
    )
    with pytest.raises(ModelError, match=r"v\.ckpt can't be downloaded .*put it at .*v\.ckpt"):
        run(config)


def test_every_published_name_is_an_option_that_help_names() -> None:
    help_of_codec = EncodeConfig.__dataclass_fields__["codec"].metadata["help"]
    for name, codec in published.PUBLISHED_CODECS.items():
        assert name in help_of_codec
        assert codec.family in families.LOADERS
        assert all(file.url.startswith("https://") for file in codec.files)


# --- What does not match ---------------------------------------------------------------------------


def test_a_yaml_that_does_not_fit_its_checkpoint_names_tensors_and_shapes(
    make_workspace: MakeWorkspace, tmp_path: Path
) -> None:
    small = write_pair(tmp_path / "small")
    large = write_pair(tmp_path / "large", ch_mult=[1, 2, 2], num_res_blocks=2)
    with pytest.raises(ModelError) as raised:
        encode_pair(make_workspace(1), (large[0], small[1]))
    message = str(raised.value)
    assert f"{small[1]} does not match {large[0]}" in message
    assert re.search(r"tensor encoder\.\S+ has the shape \(32.*\), expected \(64.*\);", message)
    assert "missing, the first is encoder.down.0.block.1.norm1.weight (32,)" in message
    first = "encoder.down.2.block.0.nin_shortcut.weight (64, 32, 1, 1)"
    assert f"tensors are unexpected, the first is {first}" in message


class Evil:
    """A pickle that would leave a file when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_checkpoint_that_wants_to_run_code_is_refused(
    make_workspace: MakeWorkspace, tmp_path: Path
) -> None:
    settings, checkpoint = write_pair(tmp_path / "files")
    torch.save({"state_dict": {}, "callbacks": Evil(tmp_path / "ran")}, checkpoint)
    workspace = make_workspace(1)
    with pytest.raises(ModelError, match=r"refused: its pickle refers to .*pathlib"):
        encode_pair(workspace, (settings, checkpoint))
    assert not (tmp_path / "ran").exists()
    assert not (workspace.root / "codecs").exists()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"vqgan_config": Path("a.yaml")}, "--vqgan-checkpoint is missing"),
        ({"dvae_decoder": Path("d.pkl")}, "--dvae-encoder is missing"),
        (
            {"vae": Path("v.pt"), "vqgan_config": Path("a.yaml")},
            r"several codecs are given \(vqgan, vae\)",
        ),
        ({"batch_size": "many"}, "Give a number or auto"),
        ({"batch_size": "0"}, "Give a number or auto"),
    ],
)
def test_options_that_do_not_fit_are_refused_at_once(options: Any, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        EncodeConfig(**options)


def test_a_name_that_is_a_path_is_refused(make_workspace: MakeWorkspace, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--codec '\.\./evil' can't name a folder"):
        encode_pair(make_workspace(1), write_pair(tmp_path / "files"), codec="../evil")


def test_a_file_that_is_not_there_is_named(make_workspace: MakeWorkspace, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.yaml can't be read: No such file"):
        encode_pair(make_workspace(1), (tmp_path / "none.yaml", tmp_path / "none.ckpt"))

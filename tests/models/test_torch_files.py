"""Malicious torch.save files: their code is not run, and they can't exhaust memory."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.core.errors import ModelError
from pipeline.models import torch_pickle
from pipeline.models.pickle_scan import scan_pickle
from pipeline.models.torch_files import Placeholder, read_torch_file, tensors_of
from pipeline.models.torch_pickle import AttributeDict
from pipeline.models.weights import check_tensors

SAVED = {
    "weights": {"a": torch.arange(4096.0), "b": torch.ones(3, dtype=torch.float16)},
    "epoch": 4,
}


def saved_file(folder: Path, *, zipped: bool = True, value: Any = None) -> Path:
    path = folder / "model.pt"
    torch.save(SAVED if value is None else value, path, _use_new_zipfile_serialization=zipped)
    return path


def rezip(path: Path, change: Callable[[zipfile.ZipInfo, bytes], bytes | None]) -> None:
    """Rewrite the archive with each member changed by `change`; None drops it."""
    with zipfile.ZipFile(path) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for info, data in members:
            changed = change(info, data)
            if changed is not None:
                archive.writestr(info, changed, compress_type=info.compress_type)


def raw_archive(path: Path, data_pickle: bytes, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data_pickle)
        for name, data in members.items():
            archive.writestr(f"archive/data/{name}", data)
    return path


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_tensors_and_plain_values_come_back(tmp_path: Path, zipped: bool, protocol: int) -> None:
    base = torch.randn(6, 4)
    value = {
        "view": base.t()[1:],
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "half": torch.randn(5).bfloat16(),
        "empty": torch.zeros(0, 3),
        "scalars": [np.float64(0.5), np.int32(7), np.bool_(True), np.str_("full")],
        "array": np.arange(6).reshape(2, 3),
        "others": (OrderedDict(a=1), {1, 2}, torch.Size([2, 3]), b"bytes", bytearray(b"more")),
    }
    path = tmp_path / "model.pt"
    torch.save(value, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    found = read_torch_file(path)
    for name in ("view", "parameter", "half", "empty"):
        assert torch.equal(found[name], value[name])  # type: ignore[arg-type]
    assert found["scalars"] == [0.5, 7, True, "full"]
    assert [type(scalar) for scalar in found["scalars"]] == [float, int, bool, str]
    assert found["array"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["others"] == value["others"]


def test_types_that_came_later_are_read(tmp_path: Path) -> None:
    value = {
        "f": torch.ones(3).to(torch.float8_e4m3fn),
        "u": torch.tensor([1, 65535]).to(torch.uint16),
    }
    found = read_torch_file(saved_file(tmp_path, value=value))
    assert found["f"].float().tolist() == [1, 1, 1]
    assert found["u"].tolist() == [1, 65535]


def test_what_is_written_into_a_tensor_stays_out_of_the_file(tmp_path: Path) -> None:
    path = saved_file(tmp_path)
    before = path.read_bytes()
    read_torch_file(path)["weights"]["a"].zero_()
    assert path.read_bytes() == before


# --- Nothing is run ------------------------------------------------------------------------------


class Runs:
    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    "function", [os.system, eval, getattr, subprocess.call], ids=lambda function: function.__name__
)
def test_a_function_that_is_asked_for_is_named_and_not_run(
    tmp_path: Path, zipped: bool, protocol: int, function: Callable[..., Any]
) -> None:
    value = {**SAVED, "extra": Runs(function, f"touch {tmp_path / 'ran'}")}
    path = tmp_path / "model.pt"
    torch.save(value, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    with pytest.raises(
        ModelError, match=rf"refers to .*{function.__name__}.*None of its code was run"
    ):
        read_torch_file(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name",
    [
        b"collections\nCounter",
        b"collections\nOrderedDict",
        b"collections\ndefaultdict",
        b"torch._utils\n_rebuild_parameter",
        b"torch\nSize",
        b"numpy\ndtype",
        b"torch.nn.modules.linear\nLinear",
        b"torch\nFloatStorage",
    ],
)
def test_what_a_pickle_does_to_a_name_stays_in_it(tmp_path: Path, name: bytes) -> None:
    """The operation that fills an object sets attributes of whatever is there: a class, a function."""
    state = b"(N}(X\x06\x00\x00\x00updateNX\x0c\x00\x00\x00__defaults__Nut"
    path = raw_archive(tmp_path / "model.pt", b"\x80\x02c" + name + b"\n" + state + b"b.")
    before = {
        module: dict(vars(module)) for module in (torch_pickle, Counter, Placeholder, AttributeDict)
    }
    defaults = [torch_pickle._encode.__defaults__, torch_pickle._bytearray.__defaults__]
    with contextlib.suppress(ModelError):
        read_torch_file(path)
    assert {module: dict(vars(module)) for module in before} == before
    assert [torch_pickle._encode.__defaults__, torch_pickle._bytearray.__defaults__] == defaults
    assert Counter("aab").most_common() == [("a", 2), ("b", 1)]
    assert read_torch_file(saved_file(tmp_path))["epoch"] == 4


# --- No more memory than there are bytes ---------------------------------------------------------


READER = """
import json, resource, sys
from pathlib import Path
from subprocess import PIPE, Popen
from pipeline.core.errors import ModelError
from pipeline.models.torch_files import read_torch_file

for line in sys.stdin:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        said = str(read_torch_file(Path(line.rstrip())))
    except ModelError as error:
        said = str(error)
    print(json.dumps([said, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before]), flush=True)
"""


@pytest.fixture(scope="module")
def reader() -> Iterator[Popen[str]]:
    """A process that reads the files whose paths it is sent, and how much they raise its peak memory."""
    with Popen([sys.executable, "-c", READER], stdin=PIPE, stdout=PIPE, text=True) as process:
        yield process
        process.communicate()


@pytest.fixture
def assert_refused_in_little_memory(reader: Popen[str]) -> Callable[[Path, str], None]:
    def check(path: Path, words: str) -> None:
        assert reader.stdin is not None
        assert reader.stdout is not None
        print(path, file=reader.stdin, flush=True)
        said, taken_kb = json.loads(reader.stdout.readline())
        assert words in said
        assert str(path) in said
        assert taken_kb < 200_000

    return check


def test_a_bomb_of_half_a_gigabyte_is_refused_unread(
    tmp_path: Path, assert_refused_in_little_memory: Callable[[Path, str], None]
) -> None:
    path = saved_file(tmp_path)
    with zipfile.ZipFile(path) as archive:
        pickled = archive.read("model/data.pkl")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("model/data.pkl", pickled)
        with archive.open("model/data/0", "w", force_zip64=True) as member:
            for _ in range(512):
                member.write(bytes(1 << 20))
    assert path.stat().st_size < 4 << 20
    assert_refused_in_little_memory(path, "is compressed")


@pytest.mark.parametrize(
    "pickled",
    [
        # bytearray(1 << 36)
        b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x00\x10\x85R.",
        # torch.FloatStorage(1 << 36), torch.Tensor(1 << 18, 1 << 18)
        b"\x80\x02ctorch\nFloatStorage\n\x8a\x05\x00\x00\x00\x00\x10\x85R.",
        b"\x80\x02]r" + (1 << 29).to_bytes(4, "little") + b".",  # a memo of 4 GB
    ],
    ids=["bytearray", "storage", "memo"],
)
def test_a_pickle_that_asks_for_gigabytes_is_refused(
    tmp_path: Path, pickled: bytes, assert_refused_in_little_memory: Callable[[Path, str], None]
) -> None:
    assert_refused_in_little_memory(raw_archive(tmp_path / "model.pt", pickled), "can't be read")


def test_a_tensor_that_is_larger_than_its_storage_is_refused(
    tmp_path: Path, assert_refused_in_little_memory: Callable[[Path, str], None]
) -> None:
    value = {"a": torch.ones(1).expand(1 << 20, 1 << 12)}
    assert_refused_in_little_memory(
        saved_file(tmp_path, value=value), "more bytes than its storage"
    )


def test_an_old_file_that_promises_more_than_it_has_is_refused(
    tmp_path: Path, assert_refused_in_little_memory: Callable[[Path, str], None]
) -> None:
    path = saved_file(tmp_path, zipped=False)
    data = path.read_bytes()
    assert data.count(b"M\x00\x10") >= 1  # 4096 elements
    path.write_bytes(data.replace(b"M\x00\x10", b"J\x00\x00\x00\x40", 1))
    assert_refused_in_little_memory(path, "storages are larger than the file")


def test_tuples_in_tuples_do_not_end_the_process(tmp_path: Path) -> None:
    """Hashing recurses for each level without a check: a key of a million levels crashes."""
    pickled = b"\x80\x02}" + b")" + b"\x85" * 1_000_000 + b"K\x01s."
    with pytest.raises(ModelError, match="nested more than 64"):
        read_torch_file(raw_archive(tmp_path / "model.pt", pickled))
    memoised = b"\x80\x02)" + b"q\x00h\x00\x86" * 80 + b"."
    with pytest.raises(ValueError, match="nested more than 64"):
        scan_pickle(io.BytesIO(memoised))


def test_lists_in_lists_are_only_lists(tmp_path: Path) -> None:
    pickled = b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."
    assert len(read_torch_file(raw_archive(tmp_path / "model.pt", pickled))) == 1


# --- Files that contain themselves, are damaged or something else --------------------------------


def test_a_module_that_contains_itself_has_its_tensors_once(tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 3)
    module._modules["again"] = module
    placeholder = read_torch_file(saved_file(tmp_path, value=module))
    assert isinstance(placeholder, Placeholder)
    assert sorted(tensors_of(placeholder)) == ["bias", "weight"]


def test_members_that_overlap_are_refused(tmp_path: Path) -> None:
    path = saved_file(tmp_path)
    data = bytearray(path.read_bytes())
    entries = [at for at in range(len(data)) if data[at : at + 4] == b"PK\x01\x02"]
    (offset,) = struct.unpack_from("<L", data, entries[1] + 42)
    struct.pack_into("<L", data, entries[2] + 42, offset)
    path.write_bytes(bytes(data))
    with pytest.raises(ModelError, match=r"model\.pt can't be read"):
        read_torch_file(path)


def test_an_archive_within_itself_is_read_once(tmp_path: Path) -> None:
    path = saved_file(tmp_path)
    inner = path.read_bytes()
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model/more/data.pkl", inner)
        archive.writestr("model/model.pt", inner)
    assert read_torch_file(path)["epoch"] == 4


@pytest.mark.parametrize("field", ["method 99", "encrypted"])
def test_an_archive_that_only_others_can_open_is_refused(tmp_path: Path, field: str) -> None:
    path = saved_file(tmp_path)
    data = bytearray(path.read_bytes())
    for begin, flags, method in ((b"PK\x03\x04", 6, 8), (b"PK\x01\x02", 8, 10)):
        at = data.find(begin)
        if field == "encrypted":
            data[at + flags] |= 1
        else:
            struct.pack_into("<H", data, at + method, 99)
    path.write_bytes(bytes(data))
    with pytest.raises(ModelError, match=r"model\.pt can't be read .*(method 99|encrypted)"):
        read_torch_file(path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.6, 0.9, 0.9999])
def test_half_a_file_is_refused(tmp_path: Path, share: float, zipped: bool) -> None:
    path = saved_file(tmp_path, zipped=zipped)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ModelError, match=r"model\.pt can't be read"):
        read_torch_file(path)


@pytest.mark.parametrize(
    "data",
    [
        b"<!DOCTYPE html><html>not found</html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
        b"\x00" * 4096,
        b"PK\x05\x06" + bytes(18),
        b"PK\x03\x04" + bytes(200),
        pickle.dumps({"weights": 1}),
        pickle.dumps({"weights": 1}, protocol=4),
        b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." * 3,
    ],
    ids=["html", "lfs", "zeros", "empty zip", "broken zip", "pickle 2", "pickle 4", "magic alone"],
)
def test_another_kind_of_file_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.pt").write_bytes(data)
    with pytest.raises(ModelError, match=r"model\.pt can't be read"):
        read_torch_file(tmp_path / "model.pt")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
def test_flipped_bytes_never_end_in_another_error(tmp_path: Path, zipped: bool) -> None:
    path = saved_file(tmp_path, zipped=zipped)
    data = path.read_bytes()
    draw = np.random.default_rng(0)
    for _ in range(300):
        changed = bytearray(data)
        for place in draw.integers(0, min(len(data), 2000), 3):
            changed[place] ^= int(draw.integers(1, 256))
        path.write_bytes(bytes(changed))
        with contextlib.suppress(ModelError):
            read_torch_file(path)


def test_the_same_bytes_under_many_names_make_no_model(tmp_path: Path) -> None:
    shared = torch.ones(1 << 16)
    value = {f"layer.{number}": shared for number in range(100)}
    found = read_torch_file(saved_file(tmp_path, value=value))
    with pytest.raises(ModelError, match="262,144 bytes for tensors of 26,214,400"):
        check_tensors(found, "model.pt")


@pytest.mark.parametrize("place", ["nowhere", "folder", "pipe", "/dev/zero"])
def test_what_is_not_a_regular_file_is_never_read(tmp_path: Path, place: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    path = tmp_path / place
    with pytest.raises(ModelError, match=r"can't be read"):
        read_torch_file(path)

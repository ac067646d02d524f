"""Unpickle `torch.save` files without executing anything that the file names.

A pickle can name any function and have it called. Here names are looked up in a fixed table: tensors, plain
containers and numpy scalars are built by functions of this module; objects of known libraries (a trainer's
callbacks, a pickled module) become `Placeholder`s, for which nothing is imported; any other name is refused.
`scan_pickle` runs first and refuses pickles that would use memory or stack out of proportion to their size.
"""

from __future__ import annotations

import pickle
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from pipeline.models.pickle_scan import scan_pickle

# Libraries whose objects occur in checkpoints; only the tensors inside them are used.
_PLACEHOLDERS = (
    "apex.",
    "argparse.Namespace",
    "builtins.dict",
    "builtins.list",
    "copyreg._reconstructor",
    "dall_e.",
    "dalle_pytorch.",
    "deepspeed.",
    "functools.partial",
    "lightning.",
    "lightning_fabric.",
    "main.",
    "numpy.",
    "omegaconf.",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",
    "pathlib._local.WindowsPath",
    "pytorch_lightning.",
    "taming.",
    "torch._utils._rebuild_",
    "torch.nn.functional.",
    "torch.nn.modules.",
    "torch.optim.",
    "torch.serialization._get_layout",
    "torch.torch_version.TorchVersion",
    "typing.Any",
)
_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # torch.save also writes these names
_STORAGES: Mapping[str, torch.dtype] = {
    "BFloat16": torch.bfloat16,
    "Bool": torch.bool,
    "Byte": torch.uint8,
    "Char": torch.int8,
    "ComplexDouble": torch.complex128,
    "ComplexFloat": torch.complex64,
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "Int": torch.int32,
    "Long": torch.int64,
    "Short": torch.int16,
    "Untyped": torch.uint8,
}
_STORAGE_NAME = re.compile(r"torch\.(?:cuda\.|storage\.)?(\w+)Storage")
_DTYPES = {str(kind): kind for kind in vars(torch).values() if isinstance(kind, torch.dtype)}
_NUMPY_CODE = re.compile(r"[biufcSU]\d{1,4}")


class Placeholder:
    """Replaces an object whose class is not loaded; `state` is the object's pickled state."""

    def __init__(self, *args: object) -> None:
        self.state: object = args

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __setitem__(self, key: object, value: object) -> None:
        """Ignored: items of a dict subclass are not kept."""

    def append(self, item: object) -> None:
        """Ignored: items of a list subclass are not kept."""

    def extend(self, items: object) -> None:
        """Ignored, like `append`."""


class NumpyArray(Placeholder):
    """A numpy array of numbers or text."""

    def tolist(self) -> Any:
        """Its elements as Python lists and numbers. Raises ValueError for an array of objects."""
        if not (isinstance(self.state, tuple) and len(self.state) == 5):
            raise ValueError("a numpy array without its elements")
        _, shape, kind, fortran, data = self.state
        if not isinstance(kind, _NumpyType):
            raise ValueError("a numpy array without its dtype")
        numbers = np.frombuffer(_raw(data), kind.dtype())
        return np.reshape(numbers, shape, order="F" if fortran else "C").tolist()


class _NumpyType:
    """A pickled `numpy.dtype`: a code and a byte order; only simple ones are supported."""

    def __init__(self, code: object = "", *_: object) -> None:
        self.code, self.order = str(code), "="

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "=", "|"):
            self.order = state[1]

    def dtype(self) -> np.dtype[Any]:
        if not _NUMPY_CODE.fullmatch(self.code):
            raise ValueError(f"unsupported numpy dtype {self.code[:40]!r}")
        return np.dtype(self.order + self.code)


@dataclass(frozen=True)
class StoredBytes:
    """A storage from the file, and the dtype of its elements."""

    storage: torch.UntypedStorage
    dtype: torch.dtype


@dataclass(frozen=True)
class StorageType:
    """Replaces a class like `torch.FloatStorage`."""

    dtype: torch.dtype


# `(type, key, elements) → storage`; raises ValueError for a key that is not in the file.
FindStorage = Callable[[StorageType, str, int], StoredBytes]


class RefusedNamesError(Exception):
    """A pickle refers to names that are not allowed."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(*names)
        self.names = names


def unpickle(stream: IO[bytes], find_storage: FindStorage) -> Any:
    """Load the object at the position of `stream`, and advance it to the object's end.

    Raises RefusedNamesError, or any exception that a damaged pickle causes.
    """
    start = stream.tell()
    scan_pickle(stream)
    stream.seek(start)
    unpickler = _Unpickler(stream, find_storage)
    try:
        return unpickler.load()
    finally:
        if unpickler.refused:  # also after another error, which the refused names may have caused
            raise RefusedNamesError(sorted(unpickler.refused))


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: IO[bytes], find_storage: FindStorage) -> None:
        super().__init__(stream)
        self._find_storage = find_storage
        self.refused: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        """The function or class of this module that replaces a name in the file."""
        full_name = f"{_PYTHON_2.get(module, module)}.{name}"
        if full_name in _BUILDERS:
            return _isolated(_BUILDERS[full_name])
        if (match := _STORAGE_NAME.fullmatch(full_name)) and match[1] in _STORAGES:
            return StorageType(_STORAGES[match[1]])
        if full_name in _DTYPES:
            return _DTYPES[full_name]
        if not full_name.startswith(_PLACEHOLDERS):
            self.refused.add(full_name)
        return Placeholder

    def persistent_load(self, pid: Any) -> Any:
        """The storage with this key, or in old files a module's class."""
        match pid:
            case ("module", kind, *_):
                return kind
            case ("storage", StorageType() as kind, str(key), _, int(elements), *_):
                return self._find_storage(kind, key, elements)
        raise ValueError("it refers to something that is not a storage")


def _isolated(build: Callable[..., Any]) -> Any:
    """A fresh wrapper of `build` for each use, since a pickle can set attributes on what it gets."""
    if build is AttributeDict:  # a pickle creates its objects without calling it
        return type("AttributeDict", (AttributeDict,), {})
    return build if isinstance(build, type) and issubclass(build, Placeholder) else partial(build)


# --- Builders ------------------------------------------------------------------------------------


def _raw(data: object) -> bytes:
    """Bytes, which protocol 2 stores as text."""
    return (
        data.encode("latin1") if isinstance(data, str) else bytes(_expect(data, bytes, bytearray))
    )


def _expect(value: Any, *types: type) -> Any:
    if not isinstance(value, types):
        raise ValueError(f"found {type(value).__name__} where {types[0].__name__} is expected")
    return value


def _encode(text: object, encoding: object = "latin1") -> bytes:
    if encoding not in ("latin1", "utf-8"):
        raise ValueError("bytes in an unknown encoding")
    return str(_expect(text, str)).encode(str(encoding))


def _bytearray(data: object = b"", _encoding: object = None) -> bytearray:
    return bytearray(_raw(data))


def _numpy_scalar(kind: object, data: object = b"") -> Any:
    """A numpy scalar as a Python number or text."""
    value = np.frombuffer(_raw(data), _expect(kind, _NumpyType).dtype())
    if len(value) != 1:
        raise ValueError("a numpy scalar that is not a single value")
    return value[0].item()


def _numpy_array(*_: object) -> NumpyArray:
    return NumpyArray()


def _size(dimensions: object = ()) -> torch.Size:
    return torch.Size([_expect(length, int) for length in _expect(dimensions, tuple, list)])


def _tensor(stored: object, offset: Any, size: Any, stride: Any, *_: object) -> Tensor:
    """A view of a storage. Raises ValueError if it exceeds the storage."""
    return _view(_expect(stored, StoredBytes), offset, size, stride)


def _tensor_of_type(
    stored: object,
    offset: Any,
    size: Any,
    stride: Any,
    _grad: Any,
    _hooks: Any,
    dtype: Any,
    *_: Any,
) -> Tensor:
    storage = _expect(stored, StoredBytes).storage
    return _view(StoredBytes(storage, _expect(dtype, torch.dtype)), offset, size, stride)


def _view(stored: StoredBytes, offset: Any, size: Any, stride: Any) -> Tensor:
    lengths = [_expect(length, int) for length in _expect(size, tuple, list)]
    needed = prod(lengths) * stored.dtype.itemsize
    if min(lengths, default=0) < 0 or needed > stored.storage.nbytes():
        raise ValueError(
            f"a tensor of shape {str(tuple(lengths))[:80]} has more bytes than its storage, "
            f"{stored.storage.nbytes():,}"
        )
    return torch.empty(0, dtype=stored.dtype).set_(stored.storage, offset, lengths, stride)


def _parameter(data: object, *_: object) -> Any:
    return data


def _of_subclass(build: Any, _kind: object, args: Any, _state: object = None) -> Any:
    return build(*_expect(args, tuple))


class AttributeDict(OrderedDict[Any, Any]):
    """Replaces dict subclasses: a `defaultdict`, Lightning's hyper-parameters."""

    def __init__(self, *_: object) -> None:
        super().__init__()


_BUILDERS: Mapping[str, Callable[..., Any]] = {
    "_codecs.encode": _encode,
    "builtins.bytearray": _bytearray,
    "builtins.complex": complex,
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "collections.Counter": Counter,
    "collections.OrderedDict": OrderedDict,
    "collections.defaultdict": AttributeDict,
    "lightning.fabric.utilities.data.AttributeDict": AttributeDict,
    "lightning.pytorch.utilities.parsing.AttributeDict": AttributeDict,
    "lightning_fabric.utilities.data.AttributeDict": AttributeDict,
    "pytorch_lightning.utilities.parsing.AttributeDict": AttributeDict,
    "numpy._core.multiarray._reconstruct": _numpy_array,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "numpy.core.multiarray._reconstruct": _numpy_array,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy.dtype": _NumpyType,
    "torch.Size": _size,
    "torch.Tensor": Placeholder,
    "torch.device": Placeholder,
    "torch.nn.parameter.Parameter": Placeholder,
    "torch._tensor._rebuild_from_type_v2": _of_subclass,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_type,
}

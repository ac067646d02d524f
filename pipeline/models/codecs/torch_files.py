"""Read files of `torch.save` without running what they hold.

Floor 3. A pickle can name any function and have it called. Here each name is looked at first: those
that build tensors are left to torch's own weights-only reader; those of an allow-list stand for objects
of no use to us (a trainer's callbacks) or of whose content only the tensors are (a pickled module), and
become `Husk`s, for which nothing is imported; any other is refused. Formats: the zip of torch ≥ 1.6 and
the five pickles in a row before it (torch/serialization.py).
"""

from __future__ import annotations

import functools
import pickle
import pickletools
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import torch
from torch import Tensor

from pipeline.errors import ModelError

# What tensors and plain containers are made of; torch itself holds the last word on these.
_PLAIN = re.compile(
    r"collections\.(OrderedDict|Counter)"
    r"|torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_from_type_v2"
    r"|torch\.(cuda\.)?\w+Storage|torch\.storage\.\w+Storage|torch\.(Size|Tensor|device)"
    r"|torch\.(b?float|u?int|complex|bool|half|double|long)\w*|torch\.nn\.parameter\.Parameter"
    r"|builtins\.(set|bytearray|complex)|_codecs\.encode"
)
_PYTHON_2 = {"__builtin__": "builtins"}  # as torch.save writes them, too
_LEGACY_PICKLES = 5  # magic number, version, machine, the object, the keys of its storages
_BUILDERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": OrderedDict,
    "builtins.set": set,
    "torch.device": torch.device,
    "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,
}


class Husk:
    """Where an object of a class that is not loaded would be; `state` is what was to fill it."""

    dump_patches = False  # torch asks each class whose source it can't compare

    def __init__(self, *args: object) -> None:
        self.state: object = args

    def __setstate__(self, state: object) -> None:
        self.state = state


def _forget(*_: object) -> OrderedDict[Any, Any]:
    """Stands for a function that makes a dict."""
    return OrderedDict()


# Torch's reader puts items into true dicts only, so these can't be Husks.
_DICTS: dict[str, Callable[..., Any]] = {
    "collections.defaultdict": _forget,
    "pytorch_lightning.utilities.parsing.AttributeDict": OrderedDict,
    "lightning.pytorch.utilities.parsing.AttributeDict": OrderedDict,
}


def read_torch_file(path: Path, *, husks: tuple[str, ...] = ()) -> Any:
    """What `torch.save` put into `path`, on the CPU.

    Names that begin with one of `husks` (`"omegaconf."`) become `Husk`s. Raises ModelError for a file
    that can't be read, or that names anything else than tensors and those; nothing of it has run then.
    """
    try:
        names = sorted(set(_names_in(path)))
    except (OSError, ValueError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path} can't be read as a file of torch.save ({error}).") from error
    stand_ins = {
        name: _stand_in(name) for name in names if name.startswith(husks) or name in _DICTS
    }
    refused = [name for name in names if name not in stand_ins and not _PLAIN.fullmatch(name)]
    if refused:
        raise ModelError(
            f"{path} is refused: its pickle asks for {', '.join(refused)}, and only tensors are read "
            "from such a file. Nothing of it was run. Give a file from a source you trust."
        )
    return _load(path, stand_ins)


def tensors_of(module: Husk, prefix: str = "") -> dict[str, Tensor]:
    """The parameters and buffers of a module that was pickled whole, by their dotted names.

    Raises ModelError where the husk is not one of a module.
    """
    state = module.state
    if not isinstance(state, dict) or not isinstance(state.get("_modules"), dict):
        raise ModelError(f"The pickled object {prefix or '(root)'} is not a module of torch.")
    own = {**state.get("_parameters", {}), **state.get("_buffers", {})}
    tensors = {prefix + name: t.detach() for name, t in own.items() if isinstance(t, Tensor)}
    for name, child in state["_modules"].items():
        if isinstance(child, Husk):
            tensors |= tensors_of(child, f"{prefix}{name}.")
    return tensors


def _stand_in(name: str) -> Callable[..., Any]:
    return _DICTS.get(name, Husk)


def _load(path: Path, stand_ins: dict[str, Callable[..., Any]]) -> Any:
    mapped = zipfile.is_zipfile(path)  # what is not looked at is not read either
    try:
        if not mapped and any(name.startswith("torch.nn.modules.") for name in stand_ins):
            return _load_old_module(path, stand_ins)
        with torch.serialization.safe_globals([(stand, name) for name, stand in stand_ins.items()]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:  # its words advise to run what is refused here
        raise ModelError(
            f"{path} is refused: its pickle is damaged or does more than hold tensors. "
            "Give a file from a source you trust."
        ) from error
    except (OSError, RuntimeError, ValueError, LookupError, EOFError, TypeError) as error:
        first_line = (str(error).splitlines() or [repr(error)])[0]
        raise ModelError(f"{path} can't be read as tensors ({first_line}).") from error


def _load_old_module(path: Path, stand_ins: dict[str, Callable[..., Any]]) -> Any:
    """A module in the format before torch 1.6, with the source of its classes as text beside it.

    Torch's weights-only reader stops at that text; this unpickler knows five functions and the Husks.
    """

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            full_name = f"{_PYTHON_2.get(module, module)}.{name}"
            if full_name in _BUILDERS:
                return functools.partial(_BUILDERS[full_name])  # torch's own stay out of reach
            if full_name in stand_ins:
                return stand_ins[full_name]
            raise pickle.UnpicklingError(full_name)

    unpickling = ModuleType("unpickling")
    unpickling.__dict__.update(
        Unpickler=Unpickler, load=lambda stream, **options: Unpickler(stream, **options).load()
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no source is there to compare with the text
        return torch.load(path, map_location="cpu", pickle_module=unpickling, weights_only=False)


def _names_in(path: Path) -> Iterator[str]:
    """Every function and class that the pickles of a file name."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for member in sorted(archive.namelist()):
                if member.endswith(".pkl"):
                    with archive.open(member) as stream:
                        yield from _names_in_pickle(stream)
        return
    with path.open("rb") as stream:
        for _ in range(_LEGACY_PICKLES):
            yield from _names_in_pickle(stream)


def _names_in_pickle(stream: IO[bytes]) -> Iterator[str]:
    for operation, argument, _ in pickletools.genops(stream):
        if operation.name in ("GLOBAL", "INST"):
            module, _, name = str(argument).partition(" ")
            yield f"{_PYTHON_2.get(module, module)}.{name}"
        elif operation.name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
            yield "a name that is only known while it runs"

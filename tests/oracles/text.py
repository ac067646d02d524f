"""The reference tokenizers: `dalle_pytorch.tokenizer` and youtokentome."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

import pytest

from tests.oracles.codecs import dalle_pytorch


def dalle_pytorch_tokenizers() -> Any:
    """The module `dalle_pytorch.tokenizer`; skips where something that it needs is not installed."""
    for name in ("youtokentome", "ftfy", "regex"):
        pytest.importorskip(name)
    dalle_pytorch()
    if "transformers" in sys.modules:
        return importlib.import_module("dalle_pytorch.tokenizer")
    sys.modules["transformers"] = ModuleType("transformers")
    vars(sys.modules["transformers"])["BertTokenizer"] = None
    try:
        return importlib.import_module("dalle_pytorch.tokenizer")
    finally:
        del sys.modules["transformers"]

"""dalle-pipeline: an image–caption dataset from the web to a trained text-to-image transformer.

In Python, `pipeline.open("data/try")` gives a workspace's tables, images and codes and runs the stages;
`pipeline.data.ShardDataset` reads shards in a training loop of your own. Both are loaded when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.core.version import __version__

if TYPE_CHECKING:
    from pipeline.dataset import Dataset, open  # noqa: A004

__all__ = ["Dataset", "__version__", "open"]


def __getattr__(name: str) -> Any:
    if name in ("Dataset", "open"):
        from pipeline import dataset

        return getattr(dataset, name)
    if name == "data":
        import importlib

        return importlib.import_module("pipeline.data")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Packages that are not there: which extra installs them, in the words of every message about one."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.core.errors import DependencyError

# The extra that installs a package, by the name of its module. Packages of no extra are always required.
EXTRA_OF: Mapping[str, str] = {
    "deepspeed": "deepspeed",
    "ftfy": "train",
    "gcsfs": "gcs",
    "pillow_heif": "heif",
    "pillow_jxl": "jxl",
    "ray": "ray",
    "s3fs": "s3",
    "safetensors": "train",
    "tensorboard": "train",
    "tokenizers": "train",
    "torch": "train",
    "transformers": "clip",
    "yaml": "train",
}
# The packages that fsspec needs for the URLs of a store.
STORES: Mapping[str, str] = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}


def how_to_install(module: str) -> str:
    """What to type for a missing package, given by its module. One of no extra belongs to every install."""
    extra = EXTRA_OF.get(module.split(".")[0])
    if extra is None:
        return (
            "dalle-pipeline is not installed completely. Repair it with: pip install --force-reinstall "
            "dalle-pipeline; `pipeline doctor` lists what is missing."
        )
    return f"Install it with: pip install 'dalle-pipeline[{extra}]'."


def missing_package(needed_by: str, module: str, why: str = "is not installed") -> DependencyError:
    """The error for a package, given by its module, that `needed_by` needs and that can't be imported."""
    name = module.split(".")[0]
    return DependencyError(
        f"{needed_by} needs the package {name.replace('_', '-')!r}, which {why}. {how_to_install(name)}"
    )


def missing_store(url: str, error: ImportError) -> DependencyError:
    """The error for a URL whose store fsspec knows, but has no package for."""
    package = STORES.get(url.partition("://")[0])
    if package is None:
        return DependencyError(f"{url} needs a package that is not installed: {error}.")
    return missing_package(url, package)

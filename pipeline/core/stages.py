"""The stages, in the order of `pipeline run`. A new stage is a package and a line here."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator, Mapping

from pipeline.core.contracts import Contract
from pipeline.core.stage import Stage

# Each package declares its stage as `STAGE` in its module `stage`.
STAGE_PACKAGES = (
    "scrapers",
    "pipeline.dedupe",
    "pipeline.train_tokenizer",
    "pipeline.train_codec",
    "pipeline.encode",
    "pipeline.shard",
    "pipeline.train",
    "pipeline.generate",
    "pipeline.report",
)


@functools.cache
def all_stages() -> Mapping[str, Stage]:
    """The stages by name, in order. Imports their declarations and options, but none of their work."""
    stages: list[Stage] = [
        importlib.import_module(f"{package}.stage").STAGE for package in STAGE_PACKAGES
    ]
    return {stage.name: stage for stage in stages}


class _Contracts(Mapping[str, Contract]):
    """The contracts of all stages by name, in the order of the pipeline.

    Each is declared by its stage (`STAGE.contract`); they are read on first use.
    """

    @functools.cached_property
    def _by_name(self) -> dict[str, Contract]:
        declared = (stage.contract for stage in all_stages().values())
        return {contract.name: contract for contract in declared if contract is not None}

    def __getitem__(self, name: str) -> Contract:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)


CONTRACTS: Mapping[str, Contract] = _Contracts()


def stage_of(contract: str) -> Stage:
    """The stage that writes the folders of a contract."""
    return next(stage for stage in all_stages().values() if stage.contract_name == contract)

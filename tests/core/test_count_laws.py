"""The law of counts of every contract: the total is the sum of each of its parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.core.inventory import Folder
from pipeline.core.stages import CONTRACTS
from pipeline.core.storage import make_manifest, write_manifest
from pipeline.verify.folders import check_folder

# As docs/workspace.md has them.
LAWS = {
    "raw": "urls = pending + done + missing + failed + opted_out + not_an_image + truncated + hash_mismatch",
    "dedupe": "rows = kept + rejected + failed",
    "codes": "images = encoded + failed",
    "shards": "images = written + rejected + failed",
    "generated": "images = written + outranked + failed",
}
PARTS = [
    (contract, part) for contract, law in LAWS.items() for part in law.split(" = ")[1].split(" + ")
]


def faults_of(contract: str, folder: Path, counts: dict[str, int]) -> list[str]:
    manifest = make_manifest(contract, config={}, inputs={}, counts=counts, files=())
    write_manifest(folder, manifest)
    found = Folder(contract=contract, name="x", path=folder, manifest=manifest, problem=None)
    # Of raw/ its missing ledger is found too.
    return [fault.found for fault in check_folder(found) if fault.found.startswith("counts")]


def test_exactly_these_contracts_have_a_law() -> None:
    laws = {name: contract.count_law for name, contract in CONTRACTS.items() if contract.count_law}
    assert {name: f"{law.total} = {' + '.join(law.parts)}" for name, law in laws.items()} == LAWS


@pytest.mark.parametrize(("contract", "part"), PARTS)
def test_every_part_counts_and_one_more_or_fewer_is_found(
    contract: str, part: str, tmp_path: Path
) -> None:
    total, _, parts = LAWS[contract].partition(" = ")
    counts = dict.fromkeys(parts.split(" + "), 3)
    whole = {total: sum(counts.values()), **counts}
    assert faults_of(contract, tmp_path, whole) == []
    for change in (-1, 1):
        (fault,) = faults_of(contract, tmp_path, {**whole, part: 3 + change})
        assert fault.startswith(f"counts {total} {whole[total]}, which is not")
        assert f"{part} {3 + change}" in fault


@pytest.mark.parametrize("contract", LAWS)
def test_counts_without_a_total_break_the_law(contract: str, tmp_path: Path) -> None:
    assert len(faults_of(contract, tmp_path, {})) == 1

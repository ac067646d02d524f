"""The versions of the folders that stages write."""

from __future__ import annotations

import pytest

from pipeline.core.stages import CONTRACTS

# The oldest version that is read, and the one that is written. A new version makes every folder of an older
# program unreadable, or needs a reader of the old one.
VERSIONS = {
    "raw": (1, 3),
    "dedupe": (1, 2),
    "tokenizer": (1, 1),
    "codec": (1, 1),
    "codes": (1, 1),
    "shards": (1, 1),
    "run": (1, 1),
    "generated": (1, 1),
}


@pytest.mark.parametrize("name", VERSIONS)
def test_folders_are_read_from_their_oldest_version_to_the_one_that_is_written(name: str) -> None:
    oldest, written = VERSIONS[name]
    assert CONTRACTS[name].version == written
    read = [version for version in range(written + 2) if CONTRACTS[name].reads(version)]
    assert read == list(range(oldest, written + 1))


def test_every_contract_has_its_versions_here() -> None:
    assert set(CONTRACTS) == set(VERSIONS)

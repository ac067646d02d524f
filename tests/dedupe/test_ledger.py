"""Errors and warnings for a damaged or unfinished ledger."""

from __future__ import annotations

import pytest

from pipeline.core.errors import ContractError
from tests.helpers.dedupe import RawStore, dedupe, photo_png


def test_a_file_that_is_not_a_ledger_is_explained(raw: RawStore) -> None:
    raw.add("a", photo_png(0))
    workspace = raw.write()
    workspace.ledger.write_bytes(b"garbage" * 1000)
    with pytest.raises(ContractError, match=r"ledger\.sqlite has no readable view `items`"):
        dedupe(workspace)


def test_a_ledger_damaged_in_its_middle_is_explained(raw: RawStore) -> None:
    for number in range(200):
        raw.add(f"key{number:03}", None)
    workspace = raw.write()
    data = bytearray(workspace.ledger.read_bytes())
    data[3 * 4096 : 6 * 4096] = bytes(range(256)) * 48
    workspace.ledger.write_bytes(data)
    with pytest.raises(ContractError, match=r"ledger\.sqlite is damaged"):
        dedupe(workspace)


@pytest.mark.parametrize("finished", [True, False])
def test_an_unfinished_crawl_causes_a_warning(
    finished: bool, raw: RawStore, caplog: pytest.LogCaptureFixture
) -> None:
    raw.add("a", photo_png(0))
    workspace = raw.write(finished=finished)
    assert dedupe(workspace).outputs == (str(workspace.dedupe),)
    assert ("The crawl is not finished" in caplog.text) is not finished

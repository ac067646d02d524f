"""The failed rows that a crawl may ask for."""

from __future__ import annotations

from pathlib import Path

import pytest

from scrapers.local.retrying import count_failed, failed_plans
from scrapers.rawstore.keys import address_of
from scrapers.rawstore.ledger import Ledger
from tests.scrapers.local.folders import rows, scrape_source
from tests.scrapers.sources.img2dataset.outputs import Tried, write_output


@pytest.mark.parametrize(
    ("hosts", "is_public"),
    [(["127.0.0.1", "a.localhost"], False), (["127.0.0.1", "www.iana.org"], True)],
)
def test_a_list_with_public_hosts_is_told_from_one_of_this_machine(
    tmp_path: Path, hosts: list[str], is_public: bool
) -> None:
    tried = [
        Tried(f"http://{host}/{n}.png", error="timed out", caption="a")
        for n, host in enumerate(hosts)
    ]
    output = write_output(tmp_path / "out", tried, "files")
    scrape_source("img2dataset", output, workspace=tmp_path / "w")
    ledger = Ledger(tmp_path / "w" / "raw" / "ledger.sqlite")
    assert count_failed(ledger) == (2, is_public)
    keys = {
        f"{address_of(plan.forms[0], plan.key_prefix or '').key}-00"
        for plan in failed_plans(ledger)
    }
    ledger.close()
    assert keys == {row.key for row in rows(tmp_path / "w").values()}

"""A command that ran in the tests' process leaves its logging behind for no other test."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.helpers.cli import run_command
from tests.helpers.logging_state import logging_restored


@pytest.mark.parametrize("flag", ["--quiet", "--debug"])
def test_the_level_and_handlers_of_a_command_are_undone(tmp_path: Path, flag: str) -> None:
    root, announcing = logging.getLogger(), logging.getLogger("scrapers.crawl.announcing")
    before = (root.level, announcing.level)
    with logging_restored():
        run_command(["status", "--workspace", str(tmp_path), flag])
        assert root.level != before[0]
    assert (root.level, announcing.level) == before
    assert not [handler for handler in root.handlers if type(handler) is logging.StreamHandler]

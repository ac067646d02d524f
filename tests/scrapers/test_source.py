"""What every source shares."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pipeline.core.errors import ConfigError
from scrapers.source import CaptionForm, SourceOptions, open_source, source_names


def test_a_form_fills_in_the_rank_and_nothing_else() -> None:
    form = CaptionForm(caption="c", url_template="http://h/%7Brank%7D/{0}%s/k_{rank}.png")
    assert form.url(31) == "http://h/%7Brank%7D/{0}%s/k_31.png"
    assert CaptionForm(caption="c", url_template="http://h/k.png").url(3) == "http://h/k.png"


def test_sources_are_opened_by_name() -> None:
    assert source_names() == ("dalleblog",)
    assert open_source(SourceOptions(name="dalleblog")).name == "dalleblog"
    with pytest.raises(ConfigError, match=r"no source 'dalle'.*dalleblog"):
        open_source(SourceOptions(name="dalle"))


def test_naming_the_sources_imports_none_of_them() -> None:
    code = "import sys, scrapers.source; print(any('lxml' in m or 'dalleblog' in m for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

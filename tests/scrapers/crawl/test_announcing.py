"""What is said before the first image of a real site is asked for."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from scrapers.config import ScrapeConfig
from scrapers.crawl.announcing import describe, is_public_name
from scrapers.fetch.client import Client
from scrapers.fetch.opening import user_agent
from scrapers.scrape import scrape
from scrapers.source import Source
from scrapers.sources.dalleblog.config import DalleBlogConfig
from tests.helpers.crawls import Ask, PlainSource, Server, answer, png
from tests.scrapers.test_scrape_manners import Names


@pytest.mark.parametrize(
    ("host", "public"),
    [
        ("cdn.openai.com", True),
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("localhost", False),
        ("127.0.0.1", False),
        ("10.0.0.7", False),
        ("192.168.1.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("dalleblog.localhost", False),
        ("page.test", False),
        ("nas.local", False),
        ("mirror.internal", False),
        ("nas", False),
    ],
)
def test_which_sites_are_real(host: str, public: bool) -> None:
    assert is_public_name(host) is public


def test_it_says_how_much_how_long_and_who_asks() -> None:
    text = describe(
        site="cdn.example.org", num_urls=417_296, num_decided=17_296, image_bytes=100_000,
        interval_s=0.0, slots=32, contact="me@example.org",
    )  # fmt: skip
    assert text == (
        "About to request up to 400,000 URLs from cdn.example.org (17,296 more are known already): "
        "about 40 GB, about 0.9 hours with up to 32 concurrent requests, if a response takes 0.25 s. "
        "The contact me@example.org is sent along. Ctrl-C loses nothing: the same command resumes."
    )


def test_a_pace_of_the_users_or_of_the_site_counts() -> None:
    text = describe(
        site="cdn.example.org", num_urls=7200, num_decided=0, image_bytes=2_500,
        interval_s=0.5, slots=32, contact=None,
    )  # fmt: skip
    assert (
        "7,200 URLs from cdn.example.org: about 18 MB, about 1.0 hours at one request every 0.5 s"
        in text
    )
    assert "No contact is sent: give --contact." in text


class Everywhere(Names):
    """A public name at this machine."""

    def __init__(self) -> None:
        super().__init__({"images.example.org": "127.0.0.1"})


def client(config: ScrapeConfig, _source: Source | None = None) -> Client:
    return Client(user_agent=user_agent(config.contact), resolver=Everywhere())


def test_it_is_said_before_the_first_image(
    server: Server, quick: DalleBlogConfig, caplog: pytest.LogCaptureFixture
) -> None:
    said: list[int] = []

    async def behave(ask: Ask) -> bytes:
        said.append(len(announcements(caplog)))
        return answer(png(ask.path))

    server.behaviour = behave
    server.robots = b"User-agent: *\nCrawl-delay: 0.02\n"
    source = PlainSource(f"http://images.example.org:{server.port}", captions=2)
    caplog.set_level(logging.INFO, "scrapers.crawl.announcing")
    scrape(quick, source=source, make_client=client)
    (record,) = announcements(caplog)
    assert (
        "About to request up to 8 URLs from images.example.org: about 800 kB" in record.getMessage()
    )
    assert "one request every 0.02 s" in record.getMessage()
    assert said[0] == 1


def announcements(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "scrapers.crawl.announcing"]


@pytest.mark.parametrize("connect_to", [None, "127.0.0.1:{port}"])
def test_nothing_is_said_of_this_machine(
    connect_to: str | None, server: Server, quick: DalleBlogConfig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "scrapers.crawl.announcing")
    base = server.url
    if connect_to is not None:
        quick = replace(quick, connect_to=connect_to.format(port=server.port))
        base = "http://images.example.org"
    assert scrape(quick, source=PlainSource(base)).counts["done"] == 12
    assert not announcements(caplog)


SCRIPT = """
import sys
from pathlib import Path
import scrapers.scrape as stage
from tests.helpers.crawls import PlainSource
from tests.scrapers.crawl.test_announcing import client

base = f"http://images.example.org:{sys.argv[1]}"
stage.open_client = client
stage.open_source = lambda options: PlainSource(base, captions=40)
from pipeline.app.cli import app
sys.argv = ["pipeline", "scrape", "dalleblog", "--workspace", sys.argv[2], *sys.argv[3:]]
app()
"""


@contextmanager
def command(server: Server, workspace: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    root = Path(__file__).parents[3]
    arguments = [sys.executable, "-c", SCRIPT, str(server.port), str(workspace), *options]
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        arguments, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield process
        if process.poll() is None:
            process.kill()


def test_ctrl_c_costs_nothing(server: Server, tmp_path: Path) -> None:
    async def slow(ask: Ask) -> bytes:
        time.sleep(0.02)
        return answer(png(ask.path))

    server.behaviour = slow
    workspace = tmp_path / "data"
    with command(server, workspace) as process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "About to request" in line)
        assert re.match("About to request .* from images\\.example\\.org", line)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    with command(server, workspace) as process:
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0, out
    assert "done 160" in out
    asked = [n for path, n in server.image_hits.items()]
    assert len(asked) == 160


def test_the_command_says_nothing_with_quiet(server: Server, tmp_path: Path) -> None:
    with command(server, tmp_path / "data", "--quiet") as process:
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")

"""What is secret goes into requests alone: no file of the workspace holds it, and nothing prints it."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path

import pytest

from scrapers.sources.dalleblog.config import DalleBlogConfig
from tests.helpers.cli import run_command
from tests.helpers.crawls import Ask, Server, answer, png
from tests.scrapers.raw_server import RawServer, ok

SECRETS = ("pagepw", "cdnpw", "proxypw", "tokenpw", "cookiepw", "envpw")
PAGE = b"""<html><body><h2>emojis</h2><figure>
<img src="/dall-e/samples/emojis/%s_0.png" alt="an emoji of a cat"><figcaption>an emoji of a cat</figcaption>
</figure></body></html>""" % base64.b64encode(b"an emoji of a cat")


def pipeline(*args: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own: nothing that it writes anywhere is missed."""
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *args],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


def holding(folder: Path) -> list[str]:
    """Secrets in a file below a folder, plainly or as Basic sends them."""
    data = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    coded = [base64.b64encode(f"{user}:{s}".encode()) for s in SECRETS for user in ("me", "us")]
    return [s for s in SECRETS if s.encode() in data] + [str(c) for c in coded if c in data]


async def blog(ask: Ask) -> bytes:
    if ask.path == "/blog/":
        return answer(PAGE, Content_Type="text/html")
    return answer(png(ask.path), Set_Cookie="sid=cookiepw2; Path=/")


def test_secrets_of_the_command_line_are_sent_and_not_kept(server: Server, tmp_path: Path) -> None:
    server.behaviour = blog
    at = server.url.removeprefix("http://")
    cookies = tmp_path / "cookies.txt"
    cookies.write_text("127.0.0.1\tFALSE\t/\tFALSE\t0\tsid\tcookiepw\n")
    args = (
        "scrape", "dalleblog", "--workspace", str(tmp_path / "data"),
        "--page-url", f"HTTP://me:pagepw@{at}/blog/", "--cdn-url", f"http://us:cdnpw@{at}/dall-e",
        "--header", "X-Token: tokenpw", "--cookie-file", str(cookies),
        "--sections", "emojis", "--limit", "1", "--rate", "200",
    )  # fmt: skip
    done = pipeline(*args, "--debug")
    assert done.returncode == 0, done.stderr
    first = dict(server.asked)["/blog/"]
    assert first["authorization"] == "Basic " + base64.b64encode(b"me:pagepw").decode()
    assert first["x-token"] == "tokenpw"
    assert first["cookie"] == "sid=cookiepw"
    image = next(headers for path, headers in server.asked if "/samples/" in path)
    assert image["authorization"].startswith("Basic ")
    assert image["x-token"] == "tokenpw"
    assert image["referer"] == f"http://{at}/blog/"
    again = run_command(args)
    listed = run_command([*args[:8], "--list-urls", "--sections", "emojis", "--limit", "1"])
    assert f"http://{at}/dall-e/samples/emojis/" in listed.stdout
    status = run_command(["status", "--workspace", str(tmp_path / "data")])
    assert (again.exit_code, listed.exit_code, status.exit_code) == (0, 0, 0)
    for said in (done.stdout + done.stderr, again.output, listed.output, status.output):
        assert not [s for s in SECRETS if s in said]
    assert holding(tmp_path / "data") == []


def test_a_header_may_come_from_the_environment(server: Server, tmp_path: Path) -> None:
    server.behaviour = blog
    args = (
        "scrape", "dalleblog", "--workspace", str(tmp_path / "data"), "--no-page",
        "--cdn-url", f"{server.url}/dall-e", "--sections", "emojis", "--limit", "1",
    )  # fmt: skip
    header = "Authorization: Bearer envpw | X-B: 2"
    done = run_command(args, env={"PIPELINE_SCRAPE_HEADER": header})
    assert done.exit_code == 0, done.output
    image = next(headers for path, headers in server.asked if "/samples/" in path)
    assert (image["authorization"], image["x-b"]) == ("Bearer envpw", "2")
    assert holding(tmp_path / "data") == []


def test_the_password_of_a_proxy_is_not_kept(tmp_path: Path) -> None:
    args = (
        "scrape", "dalleblog", "--workspace", str(tmp_path / "data"), "--no-page",
        "--cdn-url", "http://images.example/dall-e", "--sections", "emojis", "--limit", "1",
    )  # fmt: skip
    with RawServer(lambda _: ok()) as proxy:
        url = proxy.url.replace("//", "//me:proxypw@")
        done = pipeline(*args, "--proxy", url, "--ignore-opt-out", "--debug")
        assert done.returncode == 0, done.stderr
        assert proxy.heard[-1].fields("Proxy-Authorization")
    assert "proxypw" not in done.stdout + done.stderr
    assert holding(tmp_path / "data") == []
    gone = run_command([*args, "--retry-failed"], env={"HTTP_PROXY": "socks5://me:proxypw@h:1"})
    assert gone.exit_code == 2
    assert "HTTP_PROXY is 'socks5://h:1'; expected an HTTP proxy" in gone.output
    assert "proxypw" not in gone.output


def test_a_wrong_option_is_refused_without_its_secret(tmp_path: Path) -> None:
    base = ("scrape", "dalleblog", "--workspace", str(tmp_path / "data"))
    for args in (
        ("--page-url", "http://me:pagepw@:port/"),
        ("--page-url", "ftp://me:pagepw@h/"),
        ("--cdn-url", "http://me:cdnpw@h:x/"),
        ("--header", "tokenpw"),
        ("--proxy", "http://me:proxypw@h:port"),
    ):
        done = run_command([*base, *args])
        assert done.exit_code == 2, done.output
        assert not [s for s in SECRETS if s in done.output]


@pytest.mark.parametrize("name", ["header", "proxy"])
def test_a_config_that_is_printed_shows_no_secret(name: str, tmp_path: Path) -> None:
    value = ("X: tokenpw",) if name == "header" else "http://me:proxypw@h"
    config = DalleBlogConfig(workspace=tmp_path, **{name: value})  # type: ignore[arg-type]
    assert "pw" not in repr(config)


def test_the_source_sees_urls_without_their_users(tmp_path: Path) -> None:
    config = DalleBlogConfig(
        workspace=tmp_path, page_url="HTTP://me:pw@Host/Blog?x", cdn_url="https://u@cdn/y"
    )
    assert config.given_page_url == "http://Host/Blog?x"
    assert config.given_cdn_url == "https://cdn/y"

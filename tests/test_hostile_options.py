"""Every option of every command with values that nobody means: a sentence and exit code 1 or 2, or work done.

The options are read from the command line itself, so that new ones are tried by themselves.
"""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer.main

import pipeline.app.cli
import pipeline.app.doctor.machine
import pipeline.app.doctor.network
import pipeline.app.doctor.packages
import pipeline.app.doctor.programs
import pipeline.app.status
import pipeline.demo.commands
import pipeline.demo.demo
import pipeline.demo.emoji.font
import pipeline.demo.emoji.run
import pipeline.serve.server
from pipeline.app.cli import app
from pipeline.app.doctor.importing import Imported
from pipeline.app.doctor.packages import import_installed
from pipeline.app.doctor.programs import check_java
from pipeline.app.option_files import Common
from pipeline.serve.config import ServeConfig
from pipeline.serve.server import run_forever
from tests.helpers.cli import run_command
from tests.helpers.whole_workspace import Whole, whole
from tests.test_damaged_files import problem

__all__ = ["whole"]

# Options whose value names what is written: no device is ever given to them, and no folder of the system.
WRITES = frozenset({"out", "export", "cache", "cache_dir", "workspace", "name"})
# Values that are sound, and take for ever.
ENDLESS = frozenset({("train-codec", "steps", "2147483648")})
# What a command needs beside its options to come to its work.
NEEDED = {"export": ("--out", "exported.pt"), "generate": ("a red cube",)}


@dataclass(frozen=True)
class Option:
    """An option of a command, and how it is given: as a flag, with a value, with several, by position."""

    command: str
    name: str
    flag: str | None
    values: int

    def __str__(self) -> str:
        return f"{self.command} {self.flag or self.name}"

    def arguments(self, value: str) -> list[str]:
        words = [value] * self.values
        return [self.flag, *words] if self.flag else ["--", *words]


def find_options() -> Iterator[Option]:
    group: Any = typer.main.get_command(app)
    for command, found in group.commands.items():
        for parameter in found.params:
            if parameter.name == "help":
                continue
            is_option = parameter.param_type_name == "option"
            is_flag = getattr(parameter, "is_flag", False)
            flags = [*parameter.opts, *parameter.secondary_opts] if is_option else [None]
            for flag in flags if is_flag else flags[:1]:
                number = 0 if is_flag else max(1, parameter.nargs)
                yield Option(command, parameter.name, flag, number)


# Merging needs two workspaces: without them --debug shows where that is found out.
OPTIONS = sorted(
    (option for option in find_options() if (option.command, option.name) != ("merge", "debug")),
    key=str,
)
COMMON = {field.name for field in dataclasses.fields(Common)}
# What every command has alike is tried on one of them.
SOME = [option for option in OPTIONS if option.command == "status" or option.name not in COMMON]


def hostile_values(option: Option, folder: Path) -> list[str]:
    if not option.values:
        return ["(a flag)"]
    values = [
        "",
        ".",
        "..",
        "../..",
        str(folder / "outside"),
        str(folder / "file.txt"),
        str(folder / "missing" / "file"),
        "0",
        "-1",
        "1.5",
        "2147483648",
        "99999999999999999999",
        "1" * 5000,
        "nan",
        "inf",
        "-inf",
        "１２",
        "x" * 5000,
        "x/" * 2000,
        "a\nb\tc",
        "\x1b[31m[bold]red[/bold]",
        "\udcff\udcfe",
        "~nobody-of-that-name/x",
        "hf:",
        "s3:",
        "://",
        "file://",
        "http://[",
        "http://127.0.0.1:1/",
        "a|b|",
        "{}",
        "%s%n",
    ]
    if option.name not in WRITES:
        values += [str(folder / "pipe"), "/dev/zero", "/"]
    return [v for v in values if (option.command, option.name, v) not in ENDLESS]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with things of every kind; what takes for ever in a command is cut short."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "thesis.txt").write_text("mine")
    (tmp_path / "file.txt").write_text("not what was expected\n")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "here" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / "inner")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HOME", str(tmp_path / "here"))
    monkeypatch.setattr(
        pipeline.demo.commands, "load_function", lambda _: lambda config, _: config.replica()
    )
    monkeypatch.setattr(pipeline.demo.demo, "_run_stages", lambda *_: {})
    monkeypatch.setattr(pipeline.demo.emoji.run, "_run_stages", lambda *_: {})
    monkeypatch.setattr(pipeline.demo.emoji.font.EmojiFont, "draw", lambda *_: None)
    monkeypatch.setattr(pipeline.app.status, "time", Awake())
    monkeypatch.setattr(pipeline.app.doctor.network, "socket", NoNames())
    monkeypatch.setattr(
        pipeline.app.doctor.packages, "import_installed", lambda: import_installed(import_nothing)
    )
    monkeypatch.setattr(pipeline.app.doctor.programs, "check_java", lambda _: check_java({}))
    monkeypatch.setattr(pipeline.app.doctor.machine, "write_rate", lambda _: 1e9)
    monkeypatch.setattr(pipeline.serve.server, "run_forever", serve_briefly)
    return tmp_path


def import_nothing(groups: Sequence[Sequence[str]]) -> dict[str, Imported]:
    """The result of `doctor` if all packages can be imported, which it tries for ten seconds."""
    return {name: Imported() for names in groups for name in names}


class NoNames:
    """Sockets of a machine without a name server: `doctor` looks names up."""

    SOCK_STREAM = socket.SOCK_STREAM
    gaierror = socket.gaierror

    def getaddrinfo(self, *_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "no name server")


class Awake:
    """A clock for `status --watch`, which is interrupted when it waits."""

    def sleep(self, seconds: float) -> None:
        raise KeyboardInterrupt


def serve_briefly(config: ServeConfig, announce: Callable[[str], None]) -> None:
    """Serve until the URL has been printed."""

    def announce_and_stop(url: str) -> None:
        announce(url)
        signal.raise_signal(signal.SIGINT)

    run_forever(config, announce_and_stop)


def try_values(whole: Whole, folder: Path, tries: list[tuple[Option, str]]) -> list[str]:
    copy = whole.copy(folder / "here" / "data")
    problems = []
    for option, value in tries:
        arguments = [option.command, *NEEDED.get(option.command, ())]
        if option.command != "replica" and option.name != "workspace":
            arguments += ["--workspace", str(copy.root)]
        if option.name != "config":
            arguments += ["--config", str(copy.options)]
        result = run_command([*arguments, *option.arguments(value)])
        if found := problem(result):
            problems.append(f"{option} {value[:40]!r}: {found}")
    assert (folder / "outside" / "thesis.txt").read_text() == "mine"
    assert [path.name for path in (folder / "outside").iterdir()] == ["thesis.txt"]
    assert (folder / "file.txt").read_text() == "not what was expected\n"
    assert (folder / "pipe").is_fifo()
    return problems


@pytest.mark.timeout(120)
@pytest.mark.parametrize("option", SOME, ids=str)
def test_a_hostile_value_is_a_sentence(whole: Whole, folder: Path, option: Option) -> None:
    values = hostile_values(option, folder)
    some = random.Random(str(option)).choice(values)
    assert try_values(whole, folder, [(option, some)]) == []


# HOSTILE=all tries every value of every option, which takes an hour.
ALL = os.environ.get("HOSTILE") == "all"


@pytest.mark.slow
@pytest.mark.timeout(3600 if ALL else 300)
@pytest.mark.parametrize("command", sorted({option.command for option in OPTIONS}))
def test_many_hostile_values_are_sentences(whole: Whole, folder: Path, command: str) -> None:
    options = [option for option in OPTIONS if option.command == command]
    tries = [(option, value) for option in options for value in hostile_values(option, folder)]
    if not ALL:
        tries = random.Random(command).sample(tries, min(12, len(tries)))
    assert try_values(whole, folder, tries) == []

"""The command `pipeline doctor`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import typer

from pipeline.app.doctor import devices, machine, network, packages, programs
from pipeline.app.doctor.check import Check, State
from pipeline.app.doctor.importing import Imported
from pipeline.app.doctor.requirements import installed_version
from pipeline.app.run_all import Call
from pipeline.core.config import StageConfig, option
from pipeline.core.contracts import StageReport

_EXIT_FAILED = 1
_STATES: tuple[State, ...] = ("ok", "missing", "bad")


@dataclass(frozen=True, kw_only=True)
class DoctorConfig(StageConfig):
    """What is checked besides this environment and the workspace's disk."""

    host: tuple[str, ...] = option(
        (), "Host name to resolve; no request is sent (default: the hosts of the blog). Repeatable."
    )
    img2dataset_python: Path | None = option(
        None, "Python interpreter of an environment with img2dataset, to check that as well."
    )


def diagnose(config: DoctorConfig, call: Call) -> None:
    """Print a line for each check as soon as it is known.

    Raises typer.Exit with 1 if something needed is bad.
    """
    checks = list(_show_by_section(_all_checks(config), call))
    counts = Counter(check.state for check in checks)
    failing = [check.name for check in checks if check.fails]
    call.screen.say("\n" + ", ".join(f"{counts[state]} {state}" for state in _STATES))
    if failing:
        call.screen.fail(f"Fix first: {', '.join(failing)}.")
    report = StageReport(
        stage="doctor",
        outcome="damaged" if failing else "done",
        counts={state: counts[state] for state in _STATES},
        details={"checks": [check.as_dict() for check in checks]},
    )
    call.screen.emit(report.as_dict())
    if failing:
        raise typer.Exit(_EXIT_FAILED)


def _show_by_section(checks: Iterator[Check], call: Call) -> Iterator[Check]:
    section = None
    for check in checks:
        if check.section != section:
            section = check.section
            call.screen.say(section)
        call.screen.say(check.line())
        yield check


def _all_checks(config: DoctorConfig) -> Iterator[Check]:
    """Every check; the slow imports run beside the others."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        importing = thread.submit(packages.import_installed)
        yield from _machine_checks(config)
        yield from _network_checks(config)
        yield from _program_checks(config)
        driver = devices.find_driver()
        imported = importing.result()
    torch = imported.get("torch", Imported(missing=True))
    yield devices.check_gpu(driver, torch, installed_version("torch"))
    yield packages.check_python()
    yield packages.check_own()
    yield from packages.check_packages(imported)


def _machine_checks(config: DoctorConfig) -> Iterator[Check]:
    yield machine.check_cores()
    yield machine.check_memory()
    yield machine.check_disk(config.workspace)
    yield machine.check_cache()
    yield machine.check_settings(os.environ)


def _network_checks(config: DoctorConfig) -> Iterator[Check]:
    proxies = network.check_proxies(os.environ)
    yield proxies
    yield network.check_certificates(os.environ)
    hosts = config.host or network.hosts_of_the_blog()
    yield from network.check_names(hosts, has_proxy=bool(proxies.facts))


def _program_checks(config: DoctorConfig) -> Iterator[Check]:
    yield programs.check_airflow(os.environ)
    yield programs.check_img2dataset(config.img2dataset_python)
    yield programs.check_java(os.environ)

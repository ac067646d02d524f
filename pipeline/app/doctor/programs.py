"""The checks of programs outside of this interpreter: Airflow, img2dataset, Java."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.app.doctor.check import Check, one_line
from pipeline.app.doctor.requirements import CHECKOUT, declared_requirements

_SECTION = "Other programs"
_TIMEOUT_S = 30.0
_ASK_IMG2DATASET = """\
import platform, sys
from importlib.metadata import version
sys.stdout, shown = sys.stderr, sys.stdout
import img2dataset
print(f"{version('img2dataset')}, Python {platform.python_version()}", file=shown)
"""


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A program's exit code and everything that it printed."""

    code: int
    output: str


def run_program(
    command: Sequence[str | Path], environment: Mapping[str, str] | None = None
) -> Ran | None:
    """Run a program; None if there is none of this name."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError:
        return None
    except subprocess.TimeoutExpired:
        return Ran(code=1, output=f"no answer in {_TIMEOUT_S:.0f} s")
    except OSError as error:
        return Ran(code=1, output=f"can't be run: {error.strerror}")
    return Ran(code=done.returncode, output=done.stdout.decode(errors="replace"))


def check_java(environment: Mapping[str, str]) -> Check:
    """The Java runtime that Spark uses: that of JAVA_HOME, or the first on the path."""
    home = environment.get("JAVA_HOME")
    java = Path(home) / "bin/java" if home else shutil.which("java", path=environment.get("PATH"))
    ran = run_program([java, "-version"], environment) if java else None
    if ran is not None and ran.code == 0:
        return _check("Java", f"{_first_line(ran)}, {java}")
    if ran is not None:
        return _broken("Java", f"{java}: {_first_line(ran)}", "Reinstall it")
    if home:
        return _broken("Java", f"JAVA_HOME is {home}, where there is no bin/java", "Correct it")
    return _missing(
        "Java",
        "scrape urls --engine img2dataset --distributor pyspark",
        "Install a Java runtime, such as Debian's openjdk-17-jre-headless",
    )


def check_img2dataset(python: Path | None) -> Check:
    """img2dataset in its own environment, whose interpreter is `python`."""
    if python is None:
        return _missing(
            "img2dataset",
            "scrape urls --engine img2dataset",
            "Install it in an environment of its own (Python below 3.13), whose interpreter you give as "
            "--img2dataset-python",
        )
    ran = run_program([python, "-P", "-W", "ignore", "-c", _ASK_IMG2DATASET], _own_environment())
    if ran is None:
        return _broken("img2dataset", f"there is no {python}", "Correct --img2dataset-python")
    if ran.code != 0:
        return _broken("img2dataset", f"{python}: {_last_line(ran)}", "Install img2dataset there")
    return _check("img2dataset", f"{_last_line(ran)}, {python}")


def _own_environment() -> dict[str, str]:
    """The environment without paths to this interpreter's packages."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def check_airflow(environment: Mapping[str, str], checkout: Path = CHECKOUT) -> Check:
    """Airflow on the path, or in the environment that `make airflow` creates."""
    found = shutil.which("airflow", path=environment.get("PATH"))
    ours = checkout / ".venv-airflow/bin/airflow"
    program = Path(found) if found else ours if ours.is_file() else None
    if program is None:
        return _missing(
            "Airflow",
            "the DAGs",
            "Install it in an environment of its own: pip install 'apache-airflow>=3.3,<4'",
        )
    version = _version_beside(program)
    wanted = next((each for each in declared_requirements() if each.extra == "airflow"), None)
    if wanted is not None and version != "unknown" and not wanted.allows(version):
        problem = f"{version}, {program}, but the DAGs need {wanted.versions}"
        return _broken("Airflow", problem, "Install another version")
    return _check("Airflow", f"{version}, {program}")


def _version_beside(program: Path) -> str:
    """The version of apache-airflow beside its program, which itself takes seconds to start."""
    pattern = "lib/python*/site-packages/apache_airflow-[0-9]*.dist-info"
    folders = sorted(program.parent.parent.glob(pattern))
    return folders[0].name.split("-")[1].removesuffix(".dist") if folders else "unknown"


def _check(name: str, found: str) -> Check:
    return Check(section=_SECTION, name=name, state="ok", found=found)


def _missing(name: str, purpose: str, advice: str) -> Check:
    found = f"not found; for {purpose}"
    return Check(section=_SECTION, name=name, state="missing", found=found, advice=advice)


def _broken(name: str, found: str, advice: str) -> Check:
    return Check(section=_SECTION, name=name, state="bad", found=found, advice=advice)


def _first_line(ran: Ran) -> str:
    return _line(ran, 0)


def _last_line(ran: Ran) -> str:
    return _line(ran, -1)


def _line(ran: Ran, index: int) -> str:
    lines = [line for line in ran.output.splitlines() if line.strip()]
    return one_line(lines[index]) if lines else f"exit code {ran.code} without a message"

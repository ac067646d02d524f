"""`make airflow`: a complete Airflow on this machine, with a mock server of the blog, to try the DAGs.

    python dags/standalone.py --airflow .venv-airflow/bin/airflow --pipeline .venv/bin/pipeline

Starts the scheduler, the DAG processor and the API server, of which only the last listens, on 127.0.0.1;
keeps everything in one folder (SQLite, logs, the workspace) and exits, with all its processes, on Ctrl-C or
SIGTERM, or when one of the three has died. Needs only the standard library.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DAGS = Path(__file__).resolve().parent
# Without servers for the tasks' logs, which would listen on every address of the machine: the
# API server reads the files. Nothing here is deferred, so no triggerer is needed.
PARTS = {
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "dag-processor": ["dag-processor"],
    "api-server": ["api-server"],
}
HEALTHY = ("scheduler", "dag_processor")
STARTS_WITHIN_S, STOPS_WITHIN_S = 240, 25
# Small enough for two cores: some captions, a codec and a model that learn little.
OPTIONS = """\
[scrape]
page_url = "http://dalleblog.localhost/blog/dall-e/"
connect_to = "{address}"
sections = ["relative_positions", "stacking_snap"]
backoff_s = 0.1

[dedupe]
val_fraction = 0.3

[train-tokenizer]
vocab_size = 300

[train-codec]
image_size = 32
channels = 8
code_dim = 8
num_tokens = 32
steps = 12

[shard]
text_seq_len = 24

[train]
dim = 16
depth = 1
heads = 2
dim_head = 8
steps = 8
batch_size = 4
"""


def main() -> None:
    """Start the mock server and Airflow, print their URLs, and wait for the end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--airflow", type=Path, required=True, help="The airflow command.")
    parser.add_argument("--pipeline", type=Path, required=True, help="The pipeline command.")
    parser.add_argument(
        "--home", type=Path, default=Path("data/airflow"), help="The folder for everything."
    )
    parser.add_argument("--port", type=int, default=8080, help="The port of Airflow's UI.")
    parser.add_argument(
        "--size", type=int, default=64, help="Side of the mock server's images, in pixels."
    )
    options = parser.parse_args()
    home = options.home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    refuse_busy_port(options.port)
    signal.signal(signal.SIGTERM, _as_interrupt)
    # A shell without job control starts background processes with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    command = options.pipeline.absolute()
    with contextlib.suppress(KeyboardInterrupt), replica(command, home, options.size) as address:
        config = home / "options.toml"
        config.write_text(OPTIONS.format(address=address.split("/")[2]))
        variables = environment(home, command, config, options.port)
        say(
            "Starting Airflow: its database, then the scheduler, the DAG processor and the API server."
        )
        with standalone(options.airflow.absolute(), home, variables) as parts:
            wait_until_ready(parts, options.port, home)
            announce(home, options.port, address)
            while True:
                check_parts(parts, home)
                time.sleep(0.5)


def refuse_busy_port(port: int) -> None:
    """Exit with a message if the port is taken: another server's responses would pass for Airflow's."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # not one that has just ended
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            sys.exit(
                f"Port {port} is not available ({error.strerror}): another Airflow may be running. Stop it, "
                "or choose another port: make airflow AIRFLOW_PORT=8081."
            )


def environment(home: Path, command: Path, config: Path, port: int) -> dict[str, str]:
    """The environment of Airflow and the DAGs: this machine only, no examples, nothing paused."""
    return {
        **os.environ,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__CORE__PARALLELISM": "4",  # this many idle workers are forked; 32 are too many for two cores
        # A title must not overwrite a process's variables: they identify the processes of this Airflow.
        "SPT_NOENV": "1",
        "DALLE_PIPELINE_COMMAND": str(command),
        "DALLE_PIPELINE_WORKSPACE": str(home / "workspace"),
        "DALLE_PIPELINE_CONFIG": str(config),
    }


@contextlib.contextmanager
def replica(command: Path, home: Path, size: int) -> Iterator[str]:
    """Run a mock server of the blog; yields the URL of its page."""
    line = [str(command), "replica", "--port", "0", "--size", str(size), "--json"]
    line += ["--sections", "relative_positions", "--sections", "stacking_snap"]
    with (home / "replica.log").open("wb") as log:
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=log, start_new_session=True)
        try:
            assert process.stdout is not None
            text = process.stdout.readline()
            if not text:
                sys.exit(f"The mock server did not start; see {log.name}.")
            yield str(json.loads(text)["address"])
        finally:
            process.terminate()
            process.wait()


Parts = dict[str, subprocess.Popen[bytes]]


@contextlib.contextmanager
def standalone(airflow: Path, home: Path, variables: dict[str, str]) -> Iterator[Parts]:
    """Run Airflow's components, each with its own log in `home`; stop them, and what they started."""
    # They start each other by name.
    variables = {**variables, "PATH": f"{airflow.parent}{os.pathsep}{os.environ['PATH']}"}
    parts: Parts = {}
    try:
        with (home / "migrate.log").open("wb") as log:
            line = [str(airflow), "db", "migrate"]
            done = subprocess.run(line, env=variables, stdout=log, stderr=log, check=False)
        if done.returncode:
            sys.exit(f"Airflow's database could not be created; see {home / 'migrate.log'}.")
        for name, arguments in PARTS.items():
            with (home / f"{name}.log").open("ab") as log:
                parts[name] = subprocess.Popen(
                    [str(airflow), *arguments],
                    env=variables,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        yield parts
    finally:
        end(parts, home)


def end(parts: Parts, home: Path) -> None:
    """Ask all processes of this Airflow to exit, print what is waited for, and kill what remains."""
    # A second Ctrl-C must not leave half of them running.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for process in parts.values():
        _signal(process.pid, signal.SIGTERM)
    deadline, said = time.monotonic() + STOPS_WITHIN_S, ""
    asked: set[int] = set()
    while time.monotonic() < deadline:
        left = running(parts, home)
        if not left:
            break
        for pid in {pid for pid, name in left.items() if name == "pipeline"} - asked:
            _signal(pid, signal.SIGTERM)  # once: a second one would prevent it from saving
            asked.add(pid)
        names = ", ".join(sorted(set(left.values())))
        if names != said:
            say(f"Ending; waiting for {names}.")
            said = names
        time.sleep(1)
    for pid in running(parts, home):
        _signal(pid, signal.SIGKILL)
    for process in parts.values():
        process.wait()
    say("Ended.")


def running(parts: Parts, home: Path) -> dict[int, str]:
    """The processes of this Airflow, by number: its components, and what these have started."""
    found = {part.pid: name for name, part in parts.items() if part.poll() is None}
    known = {*found, os.getpid()}
    for folder in Path("/proc").glob("[0-9]*"):  # on Linux
        with contextlib.suppress(OSError):
            is_ours = f"AIRFLOW_HOME={home}".encode() in (folder / "environ").read_bytes().split(
                b"\0"
            )
            if is_ours and int(folder.name) not in known:
                words = (folder / "cmdline").read_bytes().split(b"\0")
                is_command = any(Path(os.fsdecode(word)).name == "pipeline" for word in words[:3])
                found[int(folder.name)] = "pipeline" if is_command else "tasks"
    return found


def check_parts(parts: Parts, home: Path) -> None:
    """Exit with a message if a component has died."""
    for name, process in parts.items():
        if process.poll() is not None:
            say(f"The {name} has exited with {process.returncode}; see {home / name}.log.")
            sys.exit(1)


def wait_until_ready(parts: Parts, port: int, home: Path) -> None:
    """Wait for the UI and the scheduler; exits if a component dies before."""
    deadline = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < deadline:
        check_parts(parts, home)
        health = read_health(port)
        if health and all(health[part]["status"] == "healthy" for part in HEALTHY):
            return
        time.sleep(0.5)
    sys.exit(f"Airflow was not ready within {STARTS_WITHIN_S} s; see the logs in {home}.")


def read_health(port: int) -> dict[str, Any] | None:
    """Airflow's health report on its components; None while it doesn't respond."""
    try:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{port}/api/v2/monitor/health", timeout=5
        ) as f:
            found: dict[str, Any] = json.load(f)
            return found
    except (OSError, ValueError):
        return None


def announce(home: Path, port: int, address: str) -> None:
    """Print where everything is."""
    say(f"Airflow:   http://127.0.0.1:{port}")
    say(f"User:      admin, password in {home / 'simple_auth_manager_passwords.json.generated'}")
    say(f"Source:    {address} (a mock server)")
    say(f"Workspace: {home / 'workspace'}")
    say(f"Logs:      {home}/*.log, and those of the tasks in {home / 'logs'}")
    say("Only these two ports are open, on 127.0.0.1. Ctrl-C stops everything.")


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _as_interrupt(_signum: int, _frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()

"""`make airflow`: a whole Airflow on this machine, with a replica of the blog as the source, to try the DAGs.

    python dags/standalone.py --airflow .venv-airflow/bin/airflow --pipeline .venv/bin/pipeline

Listens on 127.0.0.1 alone, keeps everything in one folder (SQLite, logs, the workspace) and ends, with
all its processes, on Ctrl-C or SIGTERM. Needs nothing but Python's own library.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DAGS = Path(__file__).resolve().parent
PARTS = ("scheduler", "dag_processor")
STARTS_WITHIN_S, STOPS_WITHIN_S = 240, 60
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
    """Start the replica and Airflow, say where they are, and wait for the end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--airflow", type=Path, required=True, help="The airflow command.")
    parser.add_argument("--pipeline", type=Path, required=True, help="The pipeline command.")
    parser.add_argument("--home", type=Path, default=Path("data/airflow"), help="Keeps everything.")
    parser.add_argument("--port", type=int, default=8080, help="Of Airflow's page.")
    parser.add_argument("--size", type=int, default=64, help="Side of the replica's pictures.")
    options = parser.parse_args()
    home = options.home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, _as_interrupt)
    # A shell without job control starts what is in the background with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    command = options.pipeline.absolute()
    with contextlib.suppress(KeyboardInterrupt), replica(command, home, options.size) as address:
        config = home / "options.toml"
        config.write_text(OPTIONS.format(address=address.split("/")[2]))
        variables = environment(home, command, config, options.port)
        with standalone(options.airflow.absolute(), home, variables) as process:
            wait_until_ready(process, options.port)
            announce(home, options.port, address)
            process.wait()


def environment(home: Path, command: Path, config: Path, port: int) -> dict[str, str]:
    """What Airflow and the DAGs are told: this machine alone, no examples, nothing paused."""
    return {
        **os.environ,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__CORE__PARALLELISM": "4",  # as many idle workers are forked; 32 are too many for two cores
        "DALLE_PIPELINE_COMMAND": str(command),
        "DALLE_PIPELINE_WORKSPACE": str(home / "workspace"),
        "DALLE_PIPELINE_CONFIG": str(config),
    }


@contextlib.contextmanager
def replica(command: Path, home: Path, size: int) -> Iterator[str]:
    """Run the stand-in of the blog; yields its page's address."""
    line = [str(command), "replica", "--port", "0", "--size", str(size), "--json"]
    line += ["--sections", "relative_positions", "--sections", "stacking_snap"]
    with (home / "replica.log").open("wb") as log:
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=log, start_new_session=True)
        try:
            assert process.stdout is not None
            text = process.stdout.readline()
            if not text:
                sys.exit(f"The replica did not start; {log.name} says why.")
            yield str(json.loads(text)["address"])
        finally:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def standalone(
    airflow: Path, home: Path, variables: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `airflow standalone` in a process group of its own; it ends cleanly by SIGINT alone."""
    with (home / "standalone.log").open("ab") as log:
        process = subprocess.Popen(
            [str(airflow), "standalone"],
            # It starts its parts by name.
            env={**variables, "PATH": f"{airflow.parent}{os.pathsep}{os.environ['PATH']}"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOPS_WITHIN_S)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    """Wait for the page and the scheduler; exits where Airflow ends before."""
    deadline = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            sys.exit(f"airflow standalone ended with {process.returncode}; see standalone.log.")
        health = read_health(port)
        if health and all(health[part]["status"] == "healthy" for part in PARTS):
            return
        time.sleep(0.5)
    sys.exit(f"Airflow was not ready within {STARTS_WITHIN_S} s; see standalone.log.")


def read_health(port: int) -> dict[str, Any] | None:
    """What Airflow says of its parts; None while it does not answer."""
    try:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{port}/api/v2/monitor/health", timeout=5
        ) as f:
            found: dict[str, Any] = json.load(f)
            return found
    except (OSError, ValueError):
        return None


def announce(home: Path, port: int, address: str) -> None:
    """Say where everything is."""
    print(f"Airflow:   http://127.0.0.1:{port}")
    print(f"User:      admin, password in {home / 'simple_auth_manager_passwords.json.generated'}")
    print(f"Source:    {address} (a replica)")
    print(f"Workspace: {home / 'workspace'}")
    print(f"Log:       {home / 'standalone.log'}")
    print("Trigger dalleblog_refresh there, or wait for Sunday. Ctrl-C ends all of it.", flush=True)


def _as_interrupt(_signum: int, _frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()

"""Training by several processes that torchrun starts once for many runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.config import option_values
from pipeline.train.config import TrainConfig

# Imports take longer than a run of these tests, so each rank forks for every run once it has done them.
CHILD = """
import functools, json, os, sys, traceback
from pathlib import Path
import torch._dynamo
import torch.distributed as dist
from pipeline.core.config import build_config
from pipeline.train.config import TrainConfig
from pipeline.train.run import run

paths = ("workspace", "resume_from", "deepspeed_config")

def do(options):
    try:
        options |= {name: Path(options[name]) for name in paths if options[name]}
        run(build_config(TrainConfig, options))
    except BaseException:
        traceback.print_exc()
        return 1
    return 0

jobs = Path(sys.argv[1])
todo = json.loads(jobs.read_text())
if any(options["parallel"] == "deepspeed" for options in todo):
    import deepspeed
for number, options in enumerate(todo):
    out = f"{jobs}-{number}-{os.environ['RANK']}"
    child = os.fork()
    if not child:
        # torchrun's own store still has the addresses of the run before.
        place = f"file://{jobs}-{number}.store"
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        dist.init_process_group = functools.partial(
            dist.init_process_group, init_method=place, rank=rank, world_size=size
        )
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{out}.{name}", os.O_WRONLY | os.O_CREAT), stream)
        sys.exit(do(options))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    Path(f"{out}.status").write_text(str(status))
"""


@dataclass(frozen=True)
class Ended:
    """How a run ended: whether in all ranks without an error, and what they printed."""

    ok: bool
    stdout: str
    stderr: str


def train_by_two(folder: Path, *runs: TrainConfig) -> list[Ended]:
    """Do each run in two new processes, one run after another; `folder` gets their output."""
    path = folder / f"jobs-{len(list(folder.glob('jobs-*.json')))}.json"
    path.write_text(json.dumps([option_values(config) for config in runs], default=str))
    script = folder / "train_jobs.py"
    script.write_text(CHILD)
    done = start_ranks([str(script), str(path)])
    assert done.returncode == 0, done.stderr
    return [_ended(path, number) for number in range(len(runs))]


def _ended(jobs: Path, number: int) -> Ended:
    def read(name: str) -> list[str]:
        return [Path(f"{jobs}-{number}-{rank}.{name}").read_text() for rank in range(2)]

    return Ended(
        ok=read("status") == ["0", "0"], stdout="".join(read("out")), stderr="".join(read("err"))
    )


def start_ranks(what: list[str], *, ranks: int = 2) -> subprocess.CompletedProcess[str]:
    """Run a script or module by torchrun; when it takes too long it ends with all its processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(ranks), *what]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            out, err = process.communicate(timeout=500)
        except subprocess.TimeoutExpired:
            process.terminate()  # which torchrun passes on to its processes
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)

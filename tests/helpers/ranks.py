"""Training by several processes, which torchrun starts once for many runs or once for each."""

from __future__ import annotations

import io
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core.config import option_values
from pipeline.train.config import TrainConfig

LIMIT_S = 240
# How long a run may wait for a process of it that has failed, as torchrun lets it.
GRACE_S = 30

# Imports take longer than a run of these tests: each rank does them once, then forks for every run.
CHILD = """
import faulthandler, functools, gc, json, os, sys, traceback
from pathlib import Path
import torch._dynamo
import torch.distributed as dist
from pipeline.core.config import build_config
from pipeline.train.config import TrainConfig
from pipeline.train.run import run

folder, engine = Path(sys.argv[1]), sys.argv[2]
import torch.distributed.fsdp
if engine == "deepspeed":
    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed, torch._inductor.compile_fx
rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])

def do(job):
    try:
        exec(job["before"], {})
        options = job["options"]
        paths = ("workspace", "resume_from", "deepspeed_config")
        options |= {name: Path(options[name]) for name in paths if options[name]}
        run(build_config(TrainConfig, options))
    except BaseException:
        traceback.print_exc()
        return 1
    return 0

gc.freeze()
answers = open(folder / f"answers-{rank}", "w", buffering=1)
for line in open(folder / f"jobs-{rank}"):
    job = json.loads(line)
    child = os.fork()
    if child:
        print(child, file=answers)
    else:
        os.environ.update(job["environment"])
        # torchrun's own store still has the addresses of the run before.
        place = f"file://{job['out']}.store"
        dist.init_process_group = functools.partial(
            dist.init_process_group, init_method=place, rank=rank, world_size=size
        )
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{job['out']}-{rank}.{name}", os.O_WRONLY | os.O_CREAT), stream)
        faulthandler.dump_traceback_later(180)  # where it hangs, if it does
        sys.exit(do(job))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers)
"""


@dataclass
class ForkingRanks:
    """Processes of torchrun's that have imported all there is to import, and wait for runs."""

    engine: str
    ranks: int
    folder: tempfile.TemporaryDirectory[str] = field(
        default_factory=lambda: tempfile.TemporaryDirectory(prefix="ranks-")
    )
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    runs: int = 0

    def __post_init__(self) -> None:
        root = Path(self.folder.name)
        for kind in ("jobs", "answers"):
            for rank in range(self.ranks):
                os.mkfifo(root / f"{kind}-{rank}")
        script = root / "train_runs.py"
        script.write_text(CHILD)
        with (root / "launcher.err").open("w") as errors:
            self.launcher = subprocess.Popen(
                torchrun_command([str(script), str(root), self.engine], self.ranks),
                env=self.environment | {"OMP_NUM_THREADS": "1"},
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
        # Open for both ends, so that opening waits for nobody; the end of the launcher is noticed by `poll`.
        self.jobs, self.answers = (
            [
                os.fdopen(os.open(root / f"{kind}-{rank}", os.O_RDWR), "r+b", 0)
                for rank in range(self.ranks)
            ]
            for kind in ("jobs", "answers")
        )

    def train(self, config: TrainConfig, before: str) -> subprocess.CompletedProcess[str]:
        """Do a run after the statements `before`; its output is that of the ranks one after the other."""
        root = Path(self.folder.name)
        out = root / f"run-{self.runs}"
        self.runs += 1
        changes = {n: v for n, v in os.environ.items() if self.environment.get(n) != v}
        job = {"options": option_values(config), "before": before, "environment": changes}
        line = json.dumps(job | {"out": out}, default=str) + "\n"
        for jobs in self.jobs:
            jobs.write(line.encode())
        processes = {answers: self._answer(answers, LIMIT_S) for answers in self.answers}
        failed = self._wait(processes)
        said = [
            "".join(Path(f"{out}-{rank}.{name}").read_text() for rank in range(self.ranks))
            for name in ("out", "err")
        ]
        return subprocess.CompletedProcess([], int(failed), *said)

    def _wait(self, processes: dict[io.FileIO, int]) -> bool:
        """Whether a process failed; as torchrun does, end the others if they don't end by themselves."""
        failed, limit_s = False, LIMIT_S
        while processes:
            answers = next(iter(select.select([*processes], [], [], limit_s)[0]), None)
            if answers is None:  # it waits for one that has failed, or hangs
                for process in processes.values():
                    os.kill(process, signal.SIGKILL)
                limit_s = LIMIT_S
                continue
            del processes[answers]
            if int(answers.readline()) != 0 and not failed:
                failed, limit_s = True, GRACE_S
        return failed

    def _answer(self, answers: io.FileIO, limit_s: int) -> int:
        """A number that a rank prints; the output of torchrun if it has ended, or none comes."""
        for _ in range(limit_s):
            if select.select([answers], [], [], 1)[0]:
                return int(answers.readline())
            if self.launcher.poll() is not None:
                break
        said = (Path(self.folder.name) / "launcher.err").read_text()
        self.close()
        raise AssertionError(said)

    def close(self) -> None:
        """End the processes."""
        self.launcher.terminate()  # which torchrun passes on to its processes
        self.launcher.wait()
        _RANKS.pop((self.engine, self.ranks), None)
        for stream in (*self.jobs, *self.answers):
            stream.close()
        self.folder.cleanup()


_RANKS: dict[tuple[str, int], ForkingRanks] = {}


def torchrun(
    config: TrainConfig, *, ranks: int = 2, before: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run the statements `before`, then `config`, in new processes, forked from those of torchrun."""
    engine = "deepspeed" if option_values(config)["parallel"] == "deepspeed" else "torch"
    kind = (engine, ranks)
    if kind not in _RANKS:
        _RANKS[kind] = ForkingRanks(*kind)
    return _RANKS[kind].train(config, before)


def close_ranks() -> None:
    """End the processes that `torchrun` keeps for further runs."""
    for ranks in list(_RANKS.values()):
        ranks.close()


def torchrun_command(what: list[str], ranks: int) -> list[str]:
    """The command by which torchrun runs a script or module in so many processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*command, "--nproc-per-node", str(ranks), *what]


def start_ranks(what: list[str], *, ranks: int = 2) -> subprocess.CompletedProcess[str]:
    """Run a script or module by torchrun; when it takes too long it ends with all its processes."""
    command = torchrun_command(what, ranks)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            out, err = process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            process.terminate()  # which torchrun passes on to its processes
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)

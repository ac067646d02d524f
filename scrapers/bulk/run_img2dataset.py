"""Run by img2dataset's interpreter, which has none of our packages: downloads what a JSON file asks for.

Exit code 75 means that a worker was killed: its shard is lost, and the same call downloads it again. Left to
itself, img2dataset would wait for that worker forever.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import threading
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

WORKER_KILLED = 75


def main() -> None:
    """Check the packages, watch the workers, download."""
    options = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    distributor = options["distributor"]
    if (
        distributor == "ray"
    ):  # without the package, img2dataset would download nothing and report success
        import ray

        started: dict[str, Any] = (
            {} if "RAY_ADDRESS" in os.environ else {"include_dashboard": False}
        )
        ray.init(log_to_driver=False, **started)
    if distributor == "pyspark":
        import pyspark  # noqa: F401
    from img2dataset import download

    if distributor == "multiprocessing":
        threading.Thread(target=watch_workers, daemon=True).start()
    download(**options)


def watch_workers() -> None:
    """End this process when one of its workers was killed."""
    seen: dict[int, BaseProcess] = {}
    while True:
        for child in multiprocessing.active_children():
            seen.setdefault(id(child), child)
        for number, child in list(seen.items()):
            if child.exitcode is None:
                continue
            if child.exitcode < 0:
                for other in seen.values():
                    other.kill()
                os._exit(WORKER_KILLED)
            del seen[number]
        time.sleep(0.05)


if __name__ == "__main__":
    main()

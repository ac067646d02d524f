"""Import packages one by one, and print a JSON line before and after each.

Run as a program of its own by `importing`, because a broken package may end its interpreter. It needs only
the standard library, so any interpreter can run it.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any


def main(names: list[str]) -> None:
    """Import `names` and print the results to standard output, which the packages themselves don't get."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in names:
        print(json.dumps({"started": name}), file=out, flush=True)
        print(json.dumps({"name": name, **_try(name)}), file=out, flush=True)
    os._exit(0)  # What the packages do at exit doesn't matter.


def _try(name: str) -> dict[str, Any]:
    try:
        module = importlib.import_module(name)
        return {"error": None, "facts": _describe_torch(module) if name == "torch" else {}}
    except BaseException as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == name
        text = f"{type(error).__name__}: {error}"
        return {"error": text, "facts": {}, "missing": missing}


def _describe_torch(torch: Any) -> dict[str, Any]:
    cuda = torch.cuda
    devices = [cuda.get_device_properties(i) for i in range(cuda.device_count())]
    return {
        "cuda": torch.version.cuda or torch.version.hip,
        "threads": torch.get_num_threads(),
        "devices": [
            {
                "name": device.name,
                "bytes": device.total_memory,
                "capability": f"{device.major}.{device.minor}",
            }
            for device in devices
        ],
    }


if __name__ == "__main__":
    main(sys.argv[1:])

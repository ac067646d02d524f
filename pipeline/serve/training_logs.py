"""What training has logged so far: curves and grids of the runs and codecs, also while they are written."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.inventory import find_folders

MAX_LOG_BYTES = 256 << 20
PLOT_POINTS = 600  # of a curve
MOST_GRIDS = 24
_GRID = re.compile(r"step-(\d{6,})\.png")
RECONSTRUCTIONS = "reconstructions"

Curve = list[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Training:
    """A run or codec by its path in the workspace, such as runs/dalle; `grids` are image files by name."""

    name: str
    path: Path
    is_finished: bool
    grids: dict[str, Path]

    @property
    def log(self) -> Path:
        """Its losses by step."""
        return self.path / "log.jsonl"

    @property
    def version(self) -> str:
        """Changes whenever there is something new to show."""
        try:
            found = self.log.stat()
            log = f"{found.st_size}-{found.st_mtime_ns}"
        except OSError:
            log = ""
        return f"{log}-{len(self.grids)}-{next(reversed(self.grids), '')}-{self.is_finished}"


def list_trainings(root: Path) -> dict[str, Training]:
    """All runs and codecs of a workspace, by name."""
    folders = (each for each in find_folders(root) if each.contract in ("run", "codec"))
    return {
        folder.name: Training(
            name=folder.name,
            path=folder.path,
            is_finished=folder.manifest is not None,
            grids=_grids(folder.path),
        )
        for folder in folders
    }


def _grids(folder: Path) -> dict[str, Path]:
    """The grids by step, oldest first, and a codec's reconstructions; only regular files."""
    found: dict[str, Path] = {}
    for path in sorted((folder / "samples").glob("step-*.png")):
        match = _GRID.fullmatch(path.name)
        if match and path.is_file() and not path.is_symlink():
            found[str(int(match[1]))] = path
    sheet = folder / f"{RECONSTRUCTIONS}.png"
    if sheet.is_file() and not sheet.is_symlink():
        found[RECONSTRUCTIONS] = sheet
    return found


def read_curves(log: Path) -> dict[str, Curve]:
    """Every number of a log by step, thinned to what a plot can show; half-written lines are left out."""
    curves: dict[str, Curve] = {}
    try:
        with log.open("rb") as file:
            data = file.read(MAX_LOG_BYTES)
    except OSError:
        return {}
    for line in data.split(b"\n"):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        step = _number(record.get("step")) if isinstance(record, dict) else None
        if step is None:
            continue
        for name, value in record.items():
            number = _number(value)
            if name not in ("step", "epoch") and number is not None:
                curves.setdefault(str(name)[:80], []).append((step, number))
    return {name: _thin(points) for name, points in curves.items()}


def _thin(points: Curve) -> Curve:
    every = -(-len(points) // PLOT_POINTS)
    thinned = points[::every]
    return thinned if thinned[-1] == points[-1] else [*thinned, points[-1]]


def _number(value: object) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None  # type: ignore[arg-type]

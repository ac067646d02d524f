"""Curves from the `log.jsonl` of a run or a codec."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.core.errors import REPAIR
from pipeline.core.parsing import read_json_lines
from pipeline.report.plots import Best, line_plot
from pipeline.report.values import as_number

Record = Mapping[str, Any]
Points = list[tuple[float, float]]

_TITLES = {
    "loss": "loss", "loss_text": "loss of text tokens", "loss_image": "loss of image codes",
    "lr": "learning rate", "psnr_db": "PSNR, dB", "restarted": "codebook entries restarted",
}  # fmt: skip


def read_log(folder: Path) -> list[Record]:
    """The lines of a folder's `log.jsonl`; none if there is no such file.

    Raises ContractError for a line that is no JSON object. A last line without an end is left out: it is
    being written.
    """
    return list(read_json_lines(folder / "log.jsonl", dict[str, Any], remedy=REPAIR))


def points_of(records: Sequence[Record], name: str) -> Points:
    """(step, value) of each line with a finite value of this name."""
    pairs = ((as_number(r.get("step")), as_number(r.get(name))) for r in records)
    return [(step, value) for step, value in pairs if step is not None and value is not None]


def names_of(records: Sequence[Record]) -> list[str]:
    """The measures of a log, those of validation under the name of training: `loss`, not `val_loss`."""
    names = dict.fromkeys(name for record in records for name in record)
    known = [name.removeprefix("val_") for name in names]
    wanted = [name for name in known if "loss" in name or "psnr" in name or name in _TITLES]
    return sorted(
        dict.fromkeys(wanted), key=lambda name: list(_TITLES).index(name) if name in _TITLES else 99
    )


def title_of(name: str) -> str:
    """The words above the plot of a measure."""
    return _TITLES.get(name, name.replace("_", " "))


def curves(
    records: Sequence[Record], *, x_label: str, best_step: float | None = None
) -> Iterator[str]:
    """A plot for each measure of a log, with training and validation on the same axes.

    `best_step` is marked in the plot of the loss.
    """
    for name in names_of(records):
        series = {
            "training": points_of(records, name),
            "validation": points_of(records, f"val_{name}"),
        }
        marked = name == "loss" and best_step is not None
        best = Best(x=best_step or 0.0, words="best validation") if marked else None
        yield line_plot(
            series,
            x_label=x_label,
            y_label=title_of(name),
            best=best,
            from_zero=name != "psnr_db",
        )

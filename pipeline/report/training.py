"""The training runs: numbers, curves, what validation says, grids of the same prompts, and comparisons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.errors import REPAIR, ConfigError
from pipeline.core.inventory import Folder, find_folders
from pipeline.core.parsing import parse_json_file, read_small_file
from pipeline.core.suggestions import name_choices
from pipeline.core.workspace import Workspace
from pipeline.report.curves import Points, Record, curves, names_of, points_of, read_log, title_of
from pipeline.report.gallery import thin_out
from pipeline.report.page import Section, Tile, fit, html_table, image_tag, shown, tiles
from pipeline.report.plots import STYLES, line_plot
from pipeline.report.values import as_number, count_of, detail_of
from pipeline.report.view import View, decode, shrink

GRIDS = 8
_FLAT = 0.01  # a validation loss within 1 % of the best is called flat
_GRID_SIDE = 320


@dataclass(frozen=True, kw_only=True)
class Run:
    """A training run: its folder, its options, the lines of its log; `label` names it on the page."""

    label: str
    folder: Folder
    config: Mapping[str, Any]
    records: Sequence[Record]

    @property
    def last_step(self) -> int:
        """The last step in the log; 0 if there is none."""
        return max((int(as_number(r.get("step")) or 0) for r in self.records), default=0)

    @property
    def validation(self) -> Points:
        """The validation loss by step."""
        return points_of(self.records, "val_loss")

    @property
    def best(self) -> tuple[float, float] | None:
        """Step and value of the lowest validation loss; the earliest of equal ones."""
        return min(self.validation, key=lambda point: (point[1], point[0]), default=None)


def read_run(folder: Folder, label: str) -> Run:
    """A run from its folder, which may be unfinished.

    Raises ContractError for a damaged plan or log.
    """
    plan_file = folder.path / "plan.json"
    plan = parse_json_file(plan_file, dict[str, Any], remedy=REPAIR) if plan_file.exists() else {}
    config = plan.get("config", {})
    if not config and folder.manifest is not None:
        config = folder.manifest.config
    return Run(label=label, folder=folder, config=config, records=read_log(folder.path))


def find_run(folders: Sequence[Folder], root: Path, name: str) -> Folder:
    """The folder of a run by its name; it may be unfinished. Raises ConfigError if there is none."""
    runs = [folder for folder in folders if folder.contract == "run"]
    for folder in runs:
        if folder.name == f"runs/{name}":
            return folder
    names = [folder.name.removeprefix("runs/") for folder in runs]
    raise ConfigError(f"{root} has no run {name!r}. {name_choices(name, names)}")


def chosen_runs(view: View) -> list[Folder]:
    """The run given with `--run`, else all runs of the workspace, the latest first."""
    if view.config.run is not None:
        return [find_run(view.folders, view.workspace.root, view.config.run)]
    latest = view.latest("run")
    runs = [folder for folder in view.folders if folder.contract == "run"]
    return sorted(runs, key=lambda folder: folder != latest)


def compared_runs(view: View) -> list[tuple[str, View, Folder | None]]:
    """Each of `--compare`: its label, its workspace, and the run; None if that workspace has none.

    Raises ConfigError for a name that is neither a run of this workspace nor the folder of another.
    """
    found: list[tuple[str, View, Folder | None]] = []
    for name in view.config.compare:
        root = Path(name)
        if (root / "workspace.json").is_file():
            other = View(
                workspace=Workspace(root).open(), folders=find_folders(root), config=view.config
            )
            found.append((root.absolute().name, other, other.latest("run") or _any_run(other)))
        else:
            found.append((name, view, find_run(view.folders, view.workspace.root, name)))
    return found


def _any_run(view: View) -> Folder | None:
    return next((folder for folder in view.folders if folder.contract == "run"), None)


def training_sections(view: View) -> Iterator[Section]:
    """The comparison if one is asked for, then every run."""
    folders = chosen_runs(view)
    compared = compared_runs(view)
    if compared:
        yield from _comparison(view, folders[0] if folders else None, compared)
    for folder in folders:
        yield from _run(read_run(folder, folder.name.removeprefix("runs/")))


# --- One run ------------------------------------------------------------------------------------------


def _run(run: Run) -> Iterator[Section]:
    best = run.best
    plots = "".join(
        curves(run.records, x_label="step", best_step=None if best is None else best[0])
    )
    yield Section(
        title=f"Run {run.label}",
        note=_state(run),
        body=tiles(_numbers(run))
        + "".join(f"<p>{shown(sentence)}</p>" for sentence in judge(run))
        + (f'<div class="plots">{plots}</div>' if plots else ""),
    )
    yield from _grids(run)


def _state(run: Run) -> str:
    steps = run.config.get("steps")
    of = f" of at most {steps:,}" if isinstance(steps, int) and steps else ""
    if run.folder.manifest is None:
        return (
            f"Not finished: at step {run.last_step:,}{of}. Run the report again for newer numbers."
        )
    return f"Finished after {run.last_step:,} steps."


def _numbers(run: Run) -> Iterator[Tile]:
    parameters, samples = count_of(run.folder, "parameters"), count_of(run.folder, "samples")
    yield Tile(value=f"{run.last_step:,}", label="steps")
    if samples:
        yield Tile(value=f"{samples:,}", label="samples seen")
    if parameters:
        yield Tile(value=f"{parameters:,}", label="parameters")
    if run.best is not None:
        yield Tile(
            value=f"{run.best[1]:.3f}", label=f"best validation loss, step {run.best[0]:,.0f}"
        )
    for name in ("val_loss_text", "val_loss_image"):
        if points := points_of(run.records, name):
            yield Tile(
                value=f"{points[-1][1]:.3f}",
                label=f"last {title_of(name.removeprefix('val_'))}, validation",
            )
    for name, label in (("learning_rate", "learning rate"), ("batch_size", "batch size")):
        if name in run.config:
            yield Tile(value=f"{run.config[name]:g}", label=label)


def judge(run: Run) -> Iterator[str]:
    """What the validation loss says, in words: still falling, flat, or overfitting from a step on."""
    validation, best = run.validation, run.best
    if best is None:
        if run.records:
            yield "There is no validation loss in the log, so overfitting can't be seen (--val-every)."
        return
    step, lowest = best
    last_step, last = validation[-1]
    if len(validation) == 1:
        yield f"Validation loss was measured once: {last:.3f} at step {last_step:,.0f}."
    elif step == last_step:
        yield (
            f"Validation loss is lowest at the last measurement ({lowest:.3f}, step {step:,.0f}): the model "
            "is not overfitting yet."
        )
    elif last <= lowest * (1 + _FLAT) or last - lowest <= 0:
        yield (
            f"Validation loss was lowest at step {step:,.0f} ({lowest:.3f}) and has been flat since "
            f"({last:.3f} at step {last_step:,.0f})."
        )
    else:
        yield _overfitting(run, best, validation[-1])
    yield from _judge_parts(run)


def _overfitting(run: Run, best: tuple[float, float], last: tuple[float, float]) -> str:
    training = points_of(run.records, "loss")
    falls = ""
    if training:
        before = min(training, key=lambda point: abs(point[0] - best[0]))[1]
        if training[-1][1] < before:
            falls = f", while training loss fell from {before:.3f} to {training[-1][1]:.3f}"
    return (
        f"Overfitting: validation loss was lowest at step {best[0]:,.0f} ({best[1]:.3f}) and has risen by "
        f"{100 * (last[1] / best[1] - 1):.0f} % since ({last[1]:.3f} at step {last[0]:,.0f}){falls}. "
        f"{_kept_checkpoint(run, best[0])}"
    )


def _kept_checkpoint(run: Run, step: float) -> str:
    name = f"checkpoints/step-{int(step):06d}"
    if (run.folder.path / name).is_dir():
        return f"The checkpoint of that step is still there: {run.folder.name}/{name}."
    return "Its checkpoint is no longer there (--keep-n-checkpoints)."


def _judge_parts(run: Run) -> Iterator[str]:
    """If only one part of the loss got worse, which."""
    for name in ("loss_text", "loss_image"):
        points = points_of(run.records, f"val_{name}")
        if len(points) > 1 and points[-1][1] > min(y for _, y in points) * (1 + _FLAT):
            step, lowest = min(points, key=lambda point: point[1])
            yield (
                f"The {title_of(name)} on validation rose from {lowest:.3f} (step {step:,.0f}) to "
                f"{points[-1][1]:.3f}."
            )


def _grids(run: Run) -> Iterator[Section]:
    grids = sorted(run.folder.path.glob("samples/step-*.png"))
    if not grids:
        return
    chosen = thin_out(grids[:-1], GRIDS - 1) + grids[-1:] if len(grids) > 1 else grids
    items = "".join(_grid(path) for path in chosen)
    prompts = run.config.get("sample_prompts") or ()
    rows = "".join(f'<li dir="auto">{shown(prompt)}</li>' for prompt in prompts)
    yield Section(
        title=f"Samples of run {run.label} by step",
        note="The same prompts with the same random numbers at every step, one row a prompt"
        f"{':' if rows else ' (captions of the validation split)'}",
        body=(f"<ol>{rows}</ol>" if rows else "") + f'<div class="group">{items}</div>',
    )


def _grid(path: Path) -> str:
    step = int(path.stem.removeprefix("step-"))
    pixels = decode(read_small_file(path))
    height, width, _ = pixels.shape
    side = min(_GRID_SIDE, max(height, width))
    tag = image_tag(
        shrink(pixels, side),
        kind="jpeg",
        alt=f"samples at step {step:,}",
        size=fit((width, height), side),
    )
    return f"<figure>{tag}<figcaption>step {step:,}</figcaption></figure>"


# --- Comparison ---------------------------------------------------------------------------------------


def _comparison(
    view: View, own: Folder | None, compared: Sequence[tuple[str, View, Folder | None]]
) -> Iterator[Section]:
    here = view.workspace.root.absolute().name
    columns = [(own.name.removeprefix("runs/") if own else here, view, own), *compared]
    labels = _distinct([label for label, _, _ in columns])
    runs = [
        None if folder is None else read_run(folder, label)
        for label, (_, _, folder) in zip(labels, columns, strict=True)
    ]
    rows = list(_compared_rows([view for _, view, _ in columns], runs))
    plots = "".join(_compared_plots([run for run in runs if run is not None]))
    yield Section(
        title="Comparison",
        note="Losses can be compared only between runs with the same codec, tokenizer and validation images.",
        body=html_table(("measure", *labels), rows)
        + (f'<div class="plots">{plots}</div>' if plots else ""),
    )


def _distinct(labels: Sequence[str]) -> list[str]:
    """The labels with a number where one repeats."""
    return [
        label if labels.count(label) == 1 else f"{label} ({turn + 1})"
        for turn, label in enumerate(labels)
    ]


def _compared_rows(views: Sequence[View], runs: Sequence[Run | None]) -> Iterator[tuple[str, ...]]:
    def row(name: str, values: Sequence[Any], form: str = "{:,}") -> Iterator[tuple[str, ...]]:
        if any(value is not None for value in values):
            yield name, *("–" if value is None else form.format(value) for value in values)

    def of_run(name: str) -> list[Any]:
        return [None if run is None else run.config.get(name) for run in runs]

    yield from row("rows", [count_of(view.latest("raw"), "urls") for view in views])
    yield from row("images kept", [count_of(view.latest("dedupe"), "kept") for view in views])
    captions = [detail_of(view.latest("dedupe"), "captions", "with_images") for view in views]
    yield from row("captions", captions)
    yield from row(
        "samples for training", [count_of(view.latest("shards"), "train") for view in views]
    )
    yield from row(
        "codec PSNR, dB", [detail_of(view.latest("codec"), "psnr_db") for view in views], "{:.2f}"
    )
    yield from row(
        "parameters", [None if r is None else count_of(r.folder, "parameters") for r in runs]
    )
    for name in ("dim", "depth", "heads", "batch_size"):
        yield from row(name.replace("_", " "), of_run(name))
    yield from row("learning rate", of_run("learning_rate"), "{:g}")
    yield from row("steps", [None if run is None else run.last_step for run in runs])
    bests = [None if run is None or run.best is None else run.best for run in runs]
    yield from row("best validation loss", [best and best[1] for best in bests], "{:.4f}")
    yield from row("at step", [best and best[0] for best in bests], "{:,.0f}")
    for name in ("val_loss", "val_loss_text", "val_loss_image", "loss"):
        points = [[] if run is None else points_of(run.records, name) for run in runs]
        yield from row(f"last {name}", [each[-1][1] if each else None for each in points], "{:.4f}")


def _compared_plots(runs: Sequence[Run]) -> Iterator[str]:
    names = dict.fromkeys(name for run in runs for name in names_of(run.records) if "loss" in name)
    both = 2 * len(runs) <= STYLES  # else the lines could not be told apart
    for name in names:
        series: dict[str, Points] = {}
        for run in runs:
            training, validation = (
                points_of(run.records, name),
                points_of(run.records, f"val_{name}"),
            )
            if validation:
                series[f"{run.label}, validation"] = validation
            if both or not validation:
                series[f"{run.label}, training"] = training
        yield line_plot(series, x_label="step", y_label=title_of(name))

"""The pages /training and /training/NAME: curves and grids, renewed while training goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.serve.pages.plot import line_plot
from pipeline.serve.pages.shell import link, notice, page, text, url
from pipeline.serve.training_logs import MOST_GRIDS, RECONSTRUCTIONS, Curve, Training


def training_list(trainings: Sequence[Training]) -> str:
    """All runs and codecs."""
    if not trainings:
        body = notice(
            "Nothing was trained yet. Run <code>pipeline train-codec</code> or <code>pipeline train</code>; "
            "curves and grids appear here while it runs."
        )
        return page("Training", f"<h1>Training</h1>{body}", current="/training")
    items = "".join(
        f"<li>{link(f'/training/{each.name}', {}, text(each.name))} "
        f'<span class="soft">{"finished" if each.is_finished else "not finished"}</span></li>'
        for each in trainings
    )
    return page("Training", f"<h1>Training</h1><ul>{items}</ul>", current="/training")


def training_page(training: Training, curves: Mapping[str, Curve], *, log: bool) -> str:
    """One run or codec; its part is loaded again by training.js when there is more to show."""
    name = text(training.name)
    here = f"/training/{training.name}"
    other = link(
        here, {"scale": "" if log else "log"}, "Linear axis" if log else "Logarithmic axis"
    )
    body = (
        f'<p><a href="/training">All runs and codecs</a> · {other}</p><h1>{name}</h1>'
        f'<div id="part" data-name="{name}" data-version="{text(training.version)}" '
        f'data-scale="{"log" if log else ""}">{training_part(training, curves, log=log)}</div>'
    )
    return page(training.name, body, current="/training", scripts=("training.js",))


def training_part(training: Training, curves: Mapping[str, Curve], *, log: bool) -> str:
    """What changes while training goes on."""
    losses = {name: points for name, points in curves.items() if "loss" in name}
    others = {name: points for name, points in curves.items() if name not in losses}
    state = "Finished." if training.is_finished else "Not finished: this page follows it."
    parts = [f'<p role="status">{state}</p>']
    if losses:
        parts.append(f"<h2>Losses</h2>{line_plot(losses, label='Losses by step', log=log)}")
    for name, points in sorted(others.items()):
        parts.append(f"<h2>{text(name)}</h2>{line_plot({name: points}, label=name)}")
    if not curves:
        parts.append(notice("Nothing was logged yet."))
    steps = [name for name in training.grids if name != RECONSTRUCTIONS]
    shown = steps[::-1][:MOST_GRIDS]
    if RECONSTRUCTIONS in training.grids:
        shown.append(RECONSTRUCTIONS)
    parts += [_grid(training, step) for step in shown]
    return "".join(parts)


def _grid(training: Training, step: str) -> str:
    if step == RECONSTRUCTIONS:
        title, about = "Reconstructions", "Originals above, their reconstructions below"
    else:
        title = about = f"Samples at step {int(step):,}"
    source = url(f"/grid/{step}/{training.name}", {})
    return (
        f'<section><h2>{title}</h2><img class="gridsheet" src="{source}" alt="{about}" loading="lazy">'
        "</section>"
    )

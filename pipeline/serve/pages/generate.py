"""The page /generate: a prompt box, its options, the images as they come, and what was drawn before."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.serve.config import ServeConfig
from pipeline.serve.pages.shell import notice, page, select, text


def generate_page(models: Sequence[str], config: ServeConfig, *, prompt: str, model: str) -> str:
    """The page; `models` are names, the default first."""
    if not models:
        body = notice(
            "There is no run with a checkpoint yet. Run <code>pipeline train</code> first; this page then "
            "offers it, even while it is still training."
        )
        return page("Generate", f"<h1>Generate</h1>{body}", current="/generate")
    return page(
        "Generate",
        f"<h1>Generate</h1>{_form(models, config, prompt, model)}{_RESULTS}",
        current="/generate",
        scripts=("generate.js",),
    )


def _form(models: Sequence[str], config: ServeConfig, prompt: str, model: str) -> str:
    chosen = model if model in models else models[0]
    best = (
        _number("best", "Keep the best", low=1, high=config.max_images, step="1")
        if config.clip is not None
        else '<p class="hint">Choosing the best images by CLIP needs <code>--clip</code>.</p>'
    )
    return (
        '<form id="request" autocomplete="off">'
        f'<label class="wide">Prompt<textarea name="prompt" rows="2" required dir="auto" '
        f'maxlength="{config.max_prompt}">{text(prompt)}</textarea></label>'
        '<div class="row">'
        + select("model", "Model", [(name, name) for name in models], chosen)
        + _number("count", "Images", low=1, high=config.max_images, step="1", value="4")
        + _number("seed", "Seed", low=0, high=2**53 - 1, step="1", placeholder="random")
        + '<button type="submit">Generate</button> '
        '<button type="button" id="stop" hidden>Stop</button></div>'
        "<details><summary>More options</summary><div class=row>"
        + _number("cond_scale", "Guidance", low=0, high=100, step="0.1", value="1")
        + _number("top_k", "Top-k threshold", low=0, high=1, step="0.01", value="0.9")
        + _number("temperature", "Temperature", low=0.01, high=10, step="0.01", value="1")
        + best
        + '<label>Image to begin with<input type="file" name="prime" '
        'accept="image/png,image/jpeg,image/webp,image/gif,image/bmp"></label>'
        + _number("prime_rows", "Rows to take from it", low=1, high=1024, step="1")
        + "</div></details></form>"
    )


def _number(
    name: str,
    label: str,
    *,
    low: float,
    high: float,
    step: str,
    value: str = "",
    placeholder: str = "",
) -> str:
    hint = f' placeholder="{placeholder}"' if placeholder else ""
    return (
        f'<label>{label}<input type="number" name="{name}" min="{low}" max="{high}" step="{step}" '
        f'value="{value}"{hint}></label>'
    )


_RESULTS = (
    '<p id="state" role="status" aria-live="polite"></p>'
    '<progress id="progress" max="1" value="0" aria-label="Images drawn" hidden></progress>'
    '<section aria-labelledby="images-title" hidden id="images-part"><h2 id="images-title">Images</h2>'
    '<ul id="images" class="grid"></ul></section>'
    '<section aria-labelledby="history-title"><h2 id="history-title">History</h2>'
    '<p class="hint" id="history-hint">Kept in this browser only.</p>'
    '<ul id="history" class="history"></ul>'
    '<button type="button" id="forget" hidden>Clear history</button></section>'
)

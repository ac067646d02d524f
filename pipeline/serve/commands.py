"""The command `pipeline serve`."""

from __future__ import annotations

from pipeline.app.command import Command
from pipeline.app.run_all import Call
from pipeline.core.stage import load_function
from pipeline.serve.config import ServeConfig


def _serve(config: ServeConfig, call: Call) -> None:
    def announce(url: str) -> None:
        call.screen.say(f"Serving {config.workspace} at {url} (stop it with Ctrl-C).")
        call.screen.emit({"address": url})

    load_function("pipeline.serve.server:run_forever")(config, announce)


COMMANDS = (
    Command(
        name="serve",
        config=ServeConfig,
        run=_serve,
        help="Serve web pages to browse a workspace, and APIs to generate images.",
        panel="Inspect and check",
    ),
)

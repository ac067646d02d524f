"""The commands `pipeline demo`, `pipeline emoji` and `pipeline replica`."""

from __future__ import annotations

from pipeline.app.command import Command
from pipeline.app.run_all import Call
from pipeline.core.contracts import StageReport
from pipeline.core.stage import load_function
from pipeline.demo.demo import DemoConfig, run_demo
from pipeline.demo.emoji.config import EmojiConfig
from pipeline.demo.replica.config import ReplicaServeConfig


def _run_emoji(config: EmojiConfig, call: Call) -> StageReport:
    from pipeline.demo.emoji.run import run_emoji

    return run_emoji(config, call)


def _serve_replica(config: ReplicaServeConfig, call: Call) -> None:
    def announce(url: str) -> None:
        call.screen.say(f"The mock server listens at {url} (stop it with Ctrl-C).")
        call.screen.emit({"address": url})

    load_function("pipeline.demo.replica.server:run_forever")(config, announce)


COMMANDS = (
    Command(
        name="demo",
        config=DemoConfig,
        run=run_demo,
        panel="Try it",
        help="Run the whole pipeline on a small mock server of the blog, and write a report.",
    ),
    Command(
        name="emoji",
        config=EmojiConfig,
        run=_run_emoji,
        panel="Try it",
        help="Run the whole pipeline on the emoji of an installed font, and write a report.",
    ),
    Command(
        name="replica",
        config=ReplicaServeConfig,
        run=_serve_replica,
        panel="Try it",
        help="Serve a mock of the blog and its CDN on this machine.",
    ),
)

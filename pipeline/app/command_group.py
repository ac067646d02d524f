"""The command `pipeline` as a group of commands, with usage errors in one sentence."""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import typer.core

from pipeline.core.interrupts import EXIT_INTERRUPTED
from pipeline.core.plain_text import plain_text

EXIT_USAGE = 2


class Group(typer.core.TyperGroup):
    """Prints a usage error as one line, in our words and without a frame; knows `help [COMMAND]`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take `pipeline help COMMAND` for `pipeline COMMAND --help`."""
        if args[:1] == ["help"]:
            args = [*args[1:], "--help"]
        return super().parse_args(ctx, args)

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a command line and exit, like click's own method."""
        extra["standalone_mode"] = False
        try:
            code = super().main(*args, **extra)
        except Exception as error:
            if not is_usage_error(error):
                raise
            _show(error)
        except typer.Abort:
            _end("stopped.", EXIT_INTERRUPTED)
        sys.exit(code if isinstance(code, int) else 0)


def is_usage_error(error: BaseException) -> bool:
    """Whether click raised it about a command line. typer bundles its own click since 0.25."""
    return hasattr(error, "format_message") and hasattr(error, "exit_code")


def _show(error: Any) -> NoReturn:
    context = getattr(error, "ctx", None)
    if (
        type(error).__name__ == "NoArgsIsHelpError"
    ):  # the help is printed by now, or it is the message
        sys.stderr.write(error.format_message() or "")
        sys.exit(EXIT_USAGE)
    message = error.format_message()
    if context is not None:
        end = "" if message.endswith((".", "?", "!")) else "."
        message = f"{message}{end} See `{context.command_path} --help`."
    _end(message, EXIT_USAGE)


def _end(message: str, code: int) -> NoReturn:
    sys.stderr.write(f"Error: {plain_text(message)}\n")
    sys.exit(code)

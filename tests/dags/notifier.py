"""A notifier as a provider has them: its text is a template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow.sdk import BaseNotifier


class Notifier(BaseNotifier):  # type: ignore[misc]
    """Writes its text to a file."""

    template_fields = ("text",)

    def __init__(self, *, path: str, text: str) -> None:
        super().__init__()
        self.path, self.text = path, text

    def notify(self, context: Any) -> None:
        """Write."""
        Path(self.path).write_text(self.text)

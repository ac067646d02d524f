"""Count while the tables are written: what the manifest and the HTML report say of the stage."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

from pipeline.contracts import REJECT_REASONS
from pipeline.dedupe.decisions import Decisions
from pipeline.dedupe.store import Row

_MOST_COMMON_SIZES = 50


class Summary:
    """Counts by reason, section, size, format and split."""

    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()
        self.sections: dict[str, Counter[str]] = {}
        self.sizes: Counter[str] = Counter()
        self.formats: Counter[str] = Counter()
        self.splits: Counter[str] = Counter()
        self.traits: Counter[str] = Counter()

    def add(self, row: Row, reason: str | None, split: str) -> None:
        """Count a row that was written."""
        verdict = reason or "kept"
        self.reasons[verdict] += 1
        self.sections.setdefault(row.section or "", Counter())[verdict] += 1
        if reason is None:
            self.sizes[f"{row.width}x{row.height}"] += 1
            self.formats[f"{row.format} {row.mode}"] += 1
            self.splits[split] += 1
            self.traits["masked"] += bool(row.masked)
            self.traits["blank"] += bool(row.is_blank)
            self.traits["alpha"] += bool(row.has_alpha)

    def counts(self) -> dict[str, int]:
        """For the manifest: *rows = kept + rejected + failed*, then the rejected by reason.

        Nothing is ever in `failed`: an image that can't be used is a rejected row, and lost bytes
        end the stage with an error.
        """
        rows, kept = self.reasons.total(), self.reasons["kept"]
        reasons = {r: self.reasons[r] for r in REJECT_REASONS if self.reasons[r]}
        return {"rows": rows, "kept": kept, "rejected": rows - kept, "failed": 0, **reasons}

    def details(self, decisions: Decisions) -> dict[str, Any]:
        """For the manifest and the report, as JSON values."""
        usual = dict(self.sizes.most_common(_MOST_COMMON_SIZES))
        other = self.sizes.total() - sum(usual.values())
        captions = decisions.captions
        return {
            "sections": {name: dict(c) for name, c in sorted(self.sections.items())},
            "sizes": usual | ({"other": other} if other else {}),
            "formats": dict(self.formats),
            "splits": {split: self.splits[split] for split in ("train", "val")},
            "traits": dict(self.traits),
            "near_duplicates": _describe(decisions),
            "captions": {
                "with_images": int((captions.images > 0).sum()),
                "val_with_images": int((captions.is_val & (captions.images > 0)).sum()),
            },
        }


def _describe(decisions: Decisions) -> dict[str, Any]:
    facts = asdict(decisions.alike)
    largest = [
        {"cluster": decisions.rows.key(leader), "images": images, "captions": captions}
        for leader, images, captions in decisions.alike.largest
    ]
    return facts | {"largest": largest}

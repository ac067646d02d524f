"""Counts gathered while the tables are written, for the manifest and the HTML report."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from pipeline.core.contracts import REJECT_REASONS
from pipeline.dedupe.decisions import Decisions

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
        self.missing_decoders: set[str] = set()
        self._decided: dict[str, Any] = {}

    def add_kept(self, rows: pa.RecordBatch, *, masked: int) -> None:
        """Count rows written to `kept`; `masked` of them have a prompted upper part."""
        if not len(rows):
            return
        column = {name: rows[name].to_pylist() for name in rows.schema.names}
        self._add_verdicts(column["section"], ["kept"] * len(rows))
        sizes = zip(column["width"], column["height"], strict=True)
        self.sizes.update(f"{width}x{height}" for width, height in sizes)
        formats = zip(column["format"], column["mode"], strict=True)
        self.formats.update(f"{file_format} {mode}" for file_format, mode in formats)
        self.splits.update(column["split"])
        self.traits["masked"] += masked
        self.traits["blank"] += sum(column["is_blank"])
        self.traits["alpha"] += sum(column["has_alpha"])
        if several := sum(len(captions) > 1 for captions in column["captions"]):
            self.traits["several_captions"] += several

    def add_rejected(self, rows: pa.RecordBatch) -> None:
        """Count rows written to `rejected`."""
        reasons, details = rows["reason"].to_pylist(), rows["detail"].to_pylist()
        self._add_verdicts(rows["section"].to_pylist(), reasons)
        # The detail begins with the name of the format.
        self.missing_decoders.update(
            detail.split()[0]
            for reason, detail in zip(reasons, details, strict=True)
            if reason == "missing_decoder"
        )

    def _add_verdicts(self, sections: list[str], verdicts: list[str]) -> None:
        self.reasons.update(verdicts)
        for (section, verdict), count in Counter(zip(sections, verdicts, strict=True)).items():
            self.sections.setdefault(section or "", Counter())[verdict] += count

    def counts(self) -> dict[str, int]:
        """For the manifest: *rows = kept + rejected + failed*, then the rejected rows by reason.

        `failed` is always 0: an unusable image is a rejected row, and lost bytes end the stage with an
        error.
        """
        rows, kept = self.reasons.total(), self.reasons["kept"]
        reasons = {r: self.reasons[r] for r in REJECT_REASONS if self.reasons[r]}
        return {"rows": rows, "kept": kept, "rejected": rows - kept, "failed": 0, **reasons}

    def conclude(self, decisions: Decisions) -> None:
        """Add the counts made during the decisions."""
        captions = decisions.captions
        self._decided = {
            "near_duplicates": _describe(decisions),
            "captions": {
                "with_images": int((captions.images > 0).sum()),
                "val_with_images": int((captions.is_val & (captions.images > 0)).sum()),
                **({"left_out_as_bad": bad} if (bad := decisions.rows.bad_captions) else {}),
            },
        }

    def details(self) -> dict[str, Any]:
        """For the manifest and the report, as JSON values."""
        usual = dict(self.sizes.most_common(_MOST_COMMON_SIZES))
        other = self.sizes.total() - sum(usual.values())
        return {
            "sections": {name: dict(c) for name, c in sorted(self.sections.items())},
            "sizes": usual | ({"other": other} if other else {}),
            "formats": dict(self.formats),
            "splits": {split: self.splits[split] for split in ("train", "val")},
            "traits": dict(self.traits),
            **(
                {"missing_decoders": sorted(self.missing_decoders)} if self.missing_decoders else {}
            ),
            **self._decided,
        }


def _describe(decisions: Decisions) -> dict[str, Any]:
    facts = asdict(decisions.cluster_stats)
    largest = [
        {"cluster": decisions.rows.key(leader), "images": images, "captions": captions}
        for leader, images, captions in decisions.cluster_stats.largest
    ]
    return facts | {"largest": largest}

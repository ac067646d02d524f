"""Which images of a caption to request next: probe before fan-out. Pure.

Rank 0, then rank 1, decides whether a caption form exists; a wrong guess costs two requests. A form whose
probes were inconclusive (errors, no images) is used if no other form exists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scrapers.fetch.verdict import Evidence

NUM_PROBES = 2

# By form number and rank, for each URL of the caption that has been decided.
Seen = Mapping[tuple[int, int], Evidence]


def next_asks(num_forms: int, ranks: Sequence[int], seen: Seen) -> list[tuple[int, int]]:
    """Pairs of form number and rank to request now; none if the caption is finished.

    Call it again when the outcomes of these are in `seen`.
    """
    uncertain: int | None = None
    for form in range(num_forms):
        answers = []
        for rank in ranks[:NUM_PROBES]:
            answer = seen.get((form, rank))
            if answer is None:
                return [(form, rank)]
            if answer == "exists":
                return _rest(form, ranks, seen)
            answers.append(answer)
        if uncertain is None and "unknown" in answers:
            uncertain = form
    return [] if uncertain is None else _rest(uncertain, ranks, seen)


def _rest(form: int, ranks: Sequence[int], seen: Seen) -> list[tuple[int, int]]:
    return [(form, rank) for rank in ranks if (form, rank) not in seen]

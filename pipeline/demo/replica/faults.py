"""Faults derived from a seed: which URL has which fault, and after which request it disappears."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from pipeline.core.errors import ConfigError
from pipeline.demo.replica.config import FaultPlan
from pipeline.demo.replica.shapes.subjects import digest_of

FaultKind = Literal[
    "slow", "truncated", "cut_short", "busy", "busy_until", "error", "unavailable", "corrupt", "html",
    "missing", "reset", "silent", "opted_out", "redirected", "redirect_loop", "redirect_away",
    "gzip_bomb", "huge", "slow_loris",
]  # fmt: skip
FAULT_KINDS: tuple[FaultKind, ...] = get_args(FaultKind)
_ALWAYS_PERMANENT: frozenset[FaultKind] = frozenset({"missing", "corrupt", "opted_out"})


@dataclass(frozen=True)
class Fault:
    """The fault of a URL. It disappears after `heals_after` requests; None: never."""

    kind: FaultKind
    heals_after: int | None


def fault_of(plan: FaultPlan, path: str) -> Fault | None:
    """The fault of a URL (its path, without host or query), None if it has none."""
    digest = digest_of("fault", plan.seed, path)
    kind = _kind_at(plan, int.from_bytes(digest[:4]) / 2**32)
    if kind is None:
        return None
    if kind in _ALWAYS_PERMANENT or digest[4] / 256 < plan.permanent:
        return Fault(kind, None)
    return Fault(kind, 1 + digest[5] % plan.passing_attempts)


def fault_for(plan: FaultPlan, path: str, attempt: int) -> Fault | None:
    """The fault of the `attempt`-th request (from 1) for a URL, None if there is none."""
    fault = fault_of(plan, path)
    if fault is None or (fault.heals_after is not None and attempt > fault.heals_after):
        return None
    return fault


def check_plan(plan: FaultPlan) -> None:
    """Raise ConfigError if a share is not between 0 and 1, or if they add up to more than 1."""
    shares = {kind: getattr(plan, kind) for kind in FAULT_KINDS}
    wrong = [kind for kind, share in shares.items() if not 0 <= share <= 1]
    if wrong or sum(shares.values()) > 1 + 1e-9 or plan.passing_attempts < 1:
        raise ConfigError(
            f"Shares of faults must be between 0 and 1 and add up to at most 1; these add up to "
            f"{sum(shares.values()):g}{' and ' + wrong[0] + ' is out of range' if wrong else ''}. "
            "Lower them; passing_attempts must be at least 1."
        )


def _kind_at(plan: FaultPlan, point: float) -> FaultKind | None:
    for kind in FAULT_KINDS:
        point -= getattr(plan, kind)
        if point < 0:
            return kind
    return None

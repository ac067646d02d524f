"""Hashes that a source expects of its images, such as ``sha256:ab12…``: what differs is not stored. Pure."""

from __future__ import annotations

import hashlib

from scrapers.fetch.verdict import Verdict


def mismatch(expected: str) -> Verdict:
    """The verdict for bytes with another hash than the expected one."""
    algorithm = expected.partition(":")[0]
    return Verdict("hash_mismatch", f"{algorithm}_differs", False, "neutral")


def differs(expected: str | None, body: bytes, sha256: bytes) -> bool:
    """Whether `body`, whose SHA-256 is given, has another hash than the expected one."""
    if expected is None:
        return False
    algorithm, _, digest = expected.partition(":")
    found = sha256.hex() if algorithm == "sha256" else hashlib.new(algorithm, body).hexdigest()
    return found != digest


def differs_from_stored(expected: str | None, sha256: bytes | None) -> bool:
    """Whether stored bytes have another hash, as far as it is known without reading them: by SHA-256."""
    if expected is None or sha256 is None:
        return False
    algorithm, _, digest = expected.partition(":")
    return algorithm == "sha256" and sha256.hex() != digest

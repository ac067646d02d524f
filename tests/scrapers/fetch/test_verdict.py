"""What an answer means: the image formats, opt-outs, statuses."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from pipeline.core.contracts import URL_STATES, UrlState
from scrapers.crawl.probe import next_asks
from scrapers.fetch.optouts.signals import Refusal
from scrapers.fetch.sniff import sniff
from scrapers.fetch.verdict import UNCHANGED, Evidence, evidence_of, judge_response


def image(kind: str, colour: int = 7) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (colour, 1, 2)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "name"), [("PNG", "png"), ("JPEG", "jpg"), ("GIF", "gif"), ("WEBP", "webp")]
)
def test_whole_images_are_known_and_cut_ones_too(kind: str, name: str) -> None:
    body = image(kind)
    assert sniff(body) == (name, True, None)
    assert sniff(body[: len(body) // 2])[1] is False


@pytest.mark.parametrize("size", range(1, 8))
def test_a_png_cut_within_its_signature_is_truncated(size: int) -> None:
    assert judge_response(200, None, image("PNG")[:size]).state == "truncated"


def test_every_cut_of_a_png_is_noticed() -> None:
    body = image("PNG")
    assert all(
        judge_response(200, None, body[:n]).state == "truncated" for n in range(1, len(body))
    )


def test_a_png_with_bytes_behind_its_end_is_whole() -> None:
    assert judge_response(200, None, image("PNG") + b"junk").state == "done"


def test_damage_inside_a_whole_png_is_left_to_the_decoder() -> None:
    body = bytearray(image("PNG"))
    body[40:50] = bytes(10)
    assert judge_response(200, None, bytes(body)).state == "done"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><p>", "html"),
        (b"\xef\xbb\xbf\n <HTML>", "html"),
        (b"%PDF-1.7", "unknown_format"),
        (bytes(1000), "unknown_format"),
    ],
)
def test_what_is_no_image_says_what_it_is(body: bytes, reason: str) -> None:
    verdict = judge_response(200, None, body)
    assert (verdict.state, verdict.reason) == ("not_an_image", reason)


RANKS = tuple(range(32))


@pytest.mark.parametrize(
    ("seen", "asks"),
    [
        ({}, [(0, 0)]),
        ({(0, 0): "absent"}, [(0, 1)]),
        ({(0, 0): "exists"}, [(0, r) for r in range(1, 32)]),
        ({(0, 0): "absent", (0, 1): "exists"}, [(0, r) for r in range(2, 32)]),
        ({(0, 0): "absent", (0, 1): "absent"}, [(1, 0)]),
        ({(0, 0): "unknown", (0, 1): "absent", (1, 0): "absent", (1, 1): "absent"},
         [(0, r) for r in range(2, 32)]),
        ({(0, 0): "unknown", (0, 1): "absent", (1, 0): "exists"}, [(1, r) for r in range(1, 32)]),
        ({(f, r): "absent" for f in (0, 1) for r in (0, 1)}, []),
        ({(0, r): "exists" for r in RANKS}, []),
    ],
)  # fmt: skip
def test_probes_decide_what_is_asked(
    seen: dict[tuple[int, int], Evidence], asks: list[tuple[int, int]]
) -> None:
    assert next_asks(2, RANKS, seen) == asks


# state, whether to ask again, and what it says of the host.
STATUSES: dict[int, tuple[str, bool, str]] = {
    **dict.fromkeys((404, 410), ("missing", False, "neutral")),
    **dict.fromkeys((429, 503), ("failed", True, "overload")),
    **dict.fromkeys((408, 425), ("failed", True, "neutral")),
    **dict.fromkeys((500, 501, 502, 504, 507, 599), ("failed", True, "down")),
    **dict.fromkeys((201, 204, 206, 300, 304, 305, 400, 401, 402, 403, 405, 406, 409, 411, 418, 451, 499),
                    ("failed", False, "neutral")),
}  # fmt: skip
REFUSAL = Refusal(signal="x-robots-tag", reason="x_robots_noai", where="x", text="x")


@pytest.mark.parametrize("status", STATUSES)
def test_every_status_has_its_verdict(status: int) -> None:
    found = judge_response(status, None, b"")
    assert (found.state, found.retry, found.sign) == STATUSES[status]
    assert found.reason == f"http_{status}"


def test_304_speaks_only_of_bytes_that_we_have() -> None:
    assert judge_response(304, None, b"", stored=True) == UNCHANGED
    assert judge_response(304, None, b"").state == "failed"
    assert judge_response(200, None, image("PNG"), stored=True).state == "done"


@pytest.mark.parametrize(
    ("status", "stored", "refused"),
    [
        (200, False, True),
        (200, True, True),
        (304, True, True),
        (304, False, False),
        (404, True, False),
        (403, False, False),
        (500, False, False),
    ],
)
def test_a_refusal_counts_where_there_is_something_to_refuse(
    status: int, stored: bool, refused: bool
) -> None:
    found = judge_response(status, REFUSAL, image("PNG"), stored=stored)
    assert (found.state == "opted_out") is refused
    assert (found.refusal == REFUSAL) is refused


@pytest.mark.parametrize("state", URL_STATES)
@pytest.mark.parametrize("status", [None, 200, 401, 403, 404, 500])
def test_what_a_probe_says_of_its_caption(state: UrlState, status: int | None) -> None:
    exists = dict.fromkeys(("done", "opted_out", "truncated", "hash_mismatch"), "exists")
    expected = {**exists, "missing": "absent"}
    refused_listing = state == "failed" and status in (401, 403)
    assert evidence_of(state, status) == (
        "absent" if refused_listing else expected.get(state, "unknown")
    )

"""What a capture is worth: its name, its digest, and what is tried after one that is no good."""

from __future__ import annotations

import base64
import hashlib

import pytest

from scrapers.fetch.optouts.headers import NO_SIGNALS
from scrapers.fetch.response import Response
from scrapers.fetch.response_head import Headers
from scrapers.fetch.verdict import Verdict, judge_response
from scrapers.wayback.captures import (
    EXCLUDED,
    LOST,
    NOT_ARCHIVED,
    Capture,
    is_indexed,
    judge_capture,
    may_be_image,
    name_of,
    older_captures,
    replay_address,
    replayed,
)
from scrapers.wayback.query import IndexRow
from tests.helpers.crawls import png

ORIGINAL = "https://h/samples/s/aB_0.png"
WHOLE, CUT = png("a"), png("a")[:-20]


def at(original: str) -> str:
    return f"https://archive/web/20210105000000id_/{original}"


def digest_of(body: bytes) -> str:
    return base64.b32encode(hashlib.sha1(body, usedforsecurity=False).digest()).decode()


def answer(
    body: bytes = WHOLE,
    fields: dict[str, str] | None = None,
    *,
    status: int = 200,
    url: str | None = None,
) -> Response:
    return Response(
        status, body, at(ORIGINAL) if url is None else url, None, None, None, NO_SIGNALS,
        Headers(fields or {}, []), 0.1,
    )  # fmt: skip


def judge(
    came: Response, *, digest: str | None, shared: bool = False
) -> tuple[str, str | None, bool]:
    capture = Capture(at(ORIGINAL), ORIGINAL, digest, shared)
    verdict = judge_capture(capture, judge_response(came.status, None, came.body), came)
    return verdict.state, verdict.reason, verdict.retry


RIGHT, WRONG = digest_of(WHOLE), digest_of(b"x")
DONE = ("done", None, False)
OTHER_URL = at("https://h/samples/s/ab_0.png")


@pytest.mark.parametrize("digest", [RIGHT, WRONG, None])
def test_an_image_under_its_own_name_is_taken(digest: str | None) -> None:
    assert judge(answer(), digest=digest) == DONE


@pytest.mark.parametrize(("digest", "taken"), [(RIGHT, True), (WRONG, False), (None, False)])
@pytest.mark.parametrize("url", [OTHER_URL, "https://elsewhere/x.png"])
def test_an_image_under_another_name_is_taken_only_with_the_digest_of_the_index(
    digest: str | None, taken: bool, url: str
) -> None:
    found = judge(answer(url=url), digest=digest)
    assert found == (DONE if taken else ("failed", "other_address", False))


@pytest.mark.parametrize(
    ("digest", "headers", "taken"),
    [
        (RIGHT, {}, True),
        (WRONG, {}, False),
        (None, {}, False),
        (None, {"content-location": "x"}, True),
        (None, {"link": '<x>; rel="original"'}, True),
        (None, {"link": '<x>; rel="timemap"'}, False),
        (WRONG, {"content-location": "x"}, False),
    ],
)
def test_of_addresses_that_share_a_key_only_what_is_proven_is_taken(
    digest: str | None, headers: dict[str, str], taken: bool
) -> None:
    found = judge(answer(WHOLE, headers), digest=digest, shared=True)
    assert found == (DONE if taken else ("failed", "other_image", False))


@pytest.mark.parametrize(
    "encoding",
    ["content-encoding", "x-archive-orig-content-encoding", "x-archive-orig-transfer-encoding"],
)
def test_of_a_body_that_was_encoded_the_digest_says_nothing(encoding: str) -> None:
    assert is_indexed(answer(WHOLE, {encoding: "gzip"}), WRONG) is None
    assert is_indexed(answer(WHOLE, {encoding: "gzip"}), RIGHT) is True
    assert is_indexed(answer(), WRONG) is False
    assert is_indexed(answer(), None) is None


@pytest.mark.parametrize(
    ("digest", "retry"), [(digest_of(CUT), False), (RIGHT, True), (None, False)]
)
def test_a_bad_image_is_asked_for_again_only_if_the_index_has_another(
    digest: str | None, retry: bool
) -> None:
    assert judge(answer(CUT), digest=digest) == ("truncated", "ends_early", retry)


def test_what_is_missing_there_is_missing_in_the_archive_alone() -> None:
    capture = Capture(at(ORIGINAL), ORIGINAL, None, False)
    came = answer(b"", status=404)
    assert judge_capture(capture, judge_response(404, None, b""), came) is NOT_ARCHIVED


# --- Names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "same",
    [
        "http://h/samples/s/aB_0.png",
        "https://H/samples/s/aB_0.png",
        "http://h:80/samples/s/aB_0.png",
        "https://h:443/samples/s/aB_0.png",
        "https://h/samples/s/%61%42_0.png",
    ],
)
def test_spellings_of_one_address_name_one_thing(same: str) -> None:
    assert name_of(same) == name_of(ORIGINAL)


@pytest.mark.parametrize(
    "other",
    [
        "https://h/samples/s/ab_0.png",
        "https://h:8080/samples/s/aB_0.png",
        "https://h/samples/S/aB_0.png",
        "https://g/samples/s/aB_0.png",
        "https://h/samples/s/aB_0.png?x",
    ],
)
def test_another_case_of_the_path_or_another_port_names_something_else(other: str) -> None:
    assert name_of(other) != name_of(ORIGINAL)


def test_the_address_of_a_capture_says_what_it_is_of() -> None:
    row = IndexRow("20210105000000", ORIGINAL, "image/png", None)
    address = replay_address("https://archive/web/", row)
    assert address == at(ORIGINAL)
    assert replayed(address) == ("20210105000000", ORIGINAL)
    assert replayed(ORIGINAL) is None
    assert replayed(None) is None


@pytest.mark.parametrize(
    ("mimetype", "worth"),
    [
        ("image/png", True),
        ("image/x-unknown", True),
        ("application/octet-stream", True),
        ("binary/octet-stream", True),
        ("Warc/Revisit", True),
        ("unk", True),
        ("-", True),
        ("", True),
        ("text/html", False),
        ("application/json", False),
    ],
)
def test_types_that_may_be_an_image(mimetype: str, worth: bool) -> None:
    assert may_be_image(mimetype) is worth


# --- After a bad one -----------------------------------------------------------------------------

CAPTURES = tuple(Capture(f"a{n}", ORIGINAL, digest, False) for n, digest in enumerate("xxy"))
TRUNCATED = Verdict("truncated", "ends_early", False, "neutral")


@pytest.mark.parametrize(
    ("verdict", "left"),
    [
        (Verdict("done", None, False, "good"), []),
        (Verdict("opted_out", "x", False, "neutral"), []),
        (EXCLUDED, []),
        (LOST, ["a1", "a2"]),
        (NOT_ARCHIVED, ["a1", "a2"]),
        (TRUNCATED, ["a2"]),  # the next one has the same bytes
        (Verdict("not_an_image", "html", False, "neutral"), ["a2"]),
        (TRUNCATED._replace(retry=True), ["a1", "a2"]),  # not those of the index
        (TRUNCATED._replace(reason="truncated"), ["a1", "a2"]),  # the connection ended early
    ],
)
def test_captures_before_a_bad_one_are_tried_unless_they_are_the_same(
    verdict: Verdict, left: list[str]
) -> None:
    assert [capture.address for capture in older_captures(CAPTURES, verdict)] == left
    assert older_captures((), verdict) == ()

"""The assertion on training and data mining in Content Credentials."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from scrapers.fetch.optouts.cbor import decode_cbor
from scrapers.fetch.optouts.embedded import find_in_bytes
from scrapers.fetch.optouts.signals import Refusal
from scrapers.fetch.sniff import sniff
from tests.scrapers.fetch.optouts.files import (
    assertion,
    avif_with_store,
    box,
    cbor,
    gif_with_store,
    jpeg_with_store,
    png_with_store,
    store,
    superbox,
    training,
    webp_with_chunk,
)


def find(body: bytes) -> Refusal | None:
    kind = sniff(body).format
    assert kind is not None
    return find_in_bytes(body, kind)


PLACES: dict[str, Callable[[bytes], bytes]] = {
    "JPEG": jpeg_with_store,
    "JPEG in parts": lambda boxes: jpeg_with_store(boxes, size=150),
    "PNG": png_with_store,
    "WebP": lambda boxes: webp_with_chunk(b"C2PA", boxes),
    "GIF": gif_with_store,
    "AVIF": avif_with_store,
}
LABELS = ("c2pa.training-mining", "cawg.training-mining")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("label", LABELS)
def test_it_is_found_in_every_format(label: str, place: str) -> None:
    maker = label.partition(".")[0]
    body = PLACES[place](store(assertion(label, training(maker=maker))))
    assert sniff(body).whole
    found = find(body)
    assert found is not None
    assert (found.signal, found.reason) == ("c2pa-training-mining", "c2pa_training_mining")
    assert found.text == f"{maker}.ai_generative_training: notAllowed"
    assert found.where.endswith(f", {label}")
    assert find(PLACES[place](store(assertion(label, training("allowed", maker=maker))))) is None


REFUSAL = box(b"cbor", cbor(training()))


@pytest.mark.parametrize(
    ("description", "found"),
    [
        (bytes(16) + b"\3cawg.training-mining\0", True),
        (bytes(16) + b"\2cawg.training-mining\0", True),
        (bytes(16) + b"\1cawg.training-mining\0", False),  # the flag of a label is not set
        (bytes(16) + b"\3", False),
        (bytes(16), False),
        (b"", False),
    ],
)
def test_an_assertion_is_known_by_the_label_in_its_description(
    description: bytes, found: bool
) -> None:
    part = box(b"jumb", box(b"jumd", description) + REFUSAL)
    assert (find(png_with_store(store(part))) is not None) == found


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    ("content", "text"),
    [
        (training(), "cawg.ai_generative_training: notAllowed"),
        (training("constrained", constraint_info="ask us"),
         "cawg.ai_generative_training: constrained (ask us)"),
        ({"entries": {"cawg.data_mining": {"use": "notAllowed"}}}, "cawg.data_mining: notAllowed"),
        ({"entries": {"c2pa.ai_training": {"use": "notAllowed"}}}, "c2pa.ai_training: notAllowed"),
        ({"entries": {"cawg.ai_inference": {"use": "notAllowed"}}}, None),
        ({"entries": {"com.maker.ai_training": {"use": "notAllowed"}}}, None),
        ({"entries": {"cawg.ai_training": {"use": "allowed"}}}, None),
        ({"entries": {"cawg.ai_training": {"use": "maybe"}}}, None),
        ({"entries": {"cawg.ai_training": "notAllowed"}}, "cawg.ai_training: notAllowed"),
        ({"cawg.ai_training": {"use": "notAllowed"}}, "cawg.ai_training: notAllowed"),
        ({"entries": ["cawg.ai_training"]}, None),
        (["entries"], None),
        ("notAllowed", None),
        ({"use": ["notAllowed"]}, None),
        ({"entries": {"cawg.ai_training": {"use": {"notAllowed": 1}}}}, None),
        ({"entries": {"cawg.ai_training": [1]}}, None),
        ({"entries": None}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_contents(content: Any, text: str | None, as_json: bool) -> None:
    boxes = store(assertion("cawg.training-mining", content, as_json=as_json))
    found = find(png_with_store(boxes))
    assert (found and found.text) == text


@pytest.mark.parametrize(
    ("label", "counts"),
    [
        ("c2pa.training-mining__1", True),
        ("cawg.training-mining.v2", True),
        ("c2pa.data_mining", True),
        ("cawg.data_mining", True),
        ("c2pa.training-mining-more", False),
        ("com.maker.training-mining", False),
        ("c2pa.actions", False),
    ],
)
def test_labels(label: str, counts: bool) -> None:
    found = find(png_with_store(store(assertion(label, training()))))
    assert (found is not None) == counts


def test_an_assertion_of_its_own_name_may_hold_the_use_alone() -> None:
    found = find(png_with_store(store(assertion("cawg.data_mining", {"use": "notAllowed"}))))
    assert found is not None


def test_of_several_manifests_any_may_refuse() -> None:
    first = store(assertion("cawg.training-mining", training("allowed")))
    second = store(assertion("cawg.training-mining", training()))
    assert find(png_with_store(first + second)) is not None
    body = jpeg_with_store(second, number=2)
    assert find(body) is not None


def test_lengths_of_eight_bytes_are_read() -> None:
    inner = store(assertion("cawg.training-mining", training()))
    content = inner[8:]
    wide = b"\0\0\0\1jumb" + (len(content) + 16).to_bytes(8, "big") + content
    assert find(png_with_store(wide)) is not None


@pytest.mark.parametrize("share", [n / 17 for n in range(17)])
def test_a_store_that_is_cut_refuses_nothing_and_fails_nowhere(share: float) -> None:
    boxes = store(
        assertion("c2pa.hash.x", {"pad": bytes(999)}), assertion("cawg.training-mining", training())
    )
    find(png_with_store(boxes[: int(len(boxes) * share)]))


def test_damage_of_any_byte_fails_nowhere() -> None:
    boxes = store(assertion("cawg.training-mining", training()))
    for at in range(len(boxes)):
        for value in (0, 0x7F, 0xFF):
            find(png_with_store(boxes[:at] + bytes([value]) + boxes[at + 1 :]))


def test_random_contents_fail_nowhere() -> None:
    dice = random.Random(1)
    words = [
        "entries",
        "cawg.ai_training",
        "use",
        "notAllowed",
        "constraint_info",
        "",
        7,
        None,
        b"x",
    ]

    def value(depth: int) -> Any:
        kind = dice.randrange(4 if depth else 2)
        if kind == 2:
            return {dice.choice(words[:6]): value(depth - 1) for _ in range(3)}
        return [value(depth - 1) for _ in range(2)] if kind == 3 else dice.choice(words)

    for _ in range(2000):
        find(png_with_store(store(assertion("cawg.training-mining", value(4)))))


@pytest.mark.timeout(60)
def test_hostile_stores_cost_nothing() -> None:
    deep = b""
    for _ in range(5000):
        deep = superbox(b"c2as", "x", deep)
    many = superbox(b"c2as", "x", box(b"free", b"") * 300_000)
    nested = assertion("cawg.training-mining", {})[:-1] + b"\x81" * 100_000
    endless = superbox(b"cbor", "cawg.training-mining", box(b"cbor", b"\x9f" * 500_000))
    large = superbox(
        b"cbor", "cawg.training-mining", box(b"cbor", b"\x5b\xff\xff\xff\xff\xff\xff\xff\xff")
    )
    wide = superbox(b"json", "cawg.training-mining", box(b"json", b"[" * 500_000))
    for boxes in (deep, many, nested, endless, large, wide):
        assert find(png_with_store(boxes)) is None


# --- CBOR ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        0, 23, 24, 255, 65_535, 2**32, 2**63, -1, -500, True, False, None, "", "a" * 300, b"\0\1",
        [], [1, [2, "x"]], {}, {"a": {"b": [None, True]}}, {"": 1},
    ],
)  # fmt: skip
def test_cbor_comes_back(value: Any) -> None:
    assert decode_cbor(cbor(value)) == value
    assert decode_cbor(cbor(value, indefinite=True)) == value


def test_tags_are_dropped_and_strings_in_parts_joined() -> None:
    assert decode_cbor(b"\xc1\x1a\x51\x4b\x67\xb0") == 0x514B67B0
    assert decode_cbor(b"\x7f\x62ab\x61c\xff") == "abc"
    assert decode_cbor(b"\xfb\x3f\xf8\0\0\0\0\0\0") == 1.5
    assert decode_cbor(b"\xa1\x81\x01\x02") == {}  # a key that is a list


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x18",
        b"\x62a",
        b"\x1c",
        b"\x3f",
        b"\xdf",
        b"\x61\xff",
        b"\x9f\x01",
        b"\xa1\x01",
        b"\x81" * 99,
    ],
)
def test_broken_cbor_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"CBOR|length|codec"):
        decode_cbor(data)

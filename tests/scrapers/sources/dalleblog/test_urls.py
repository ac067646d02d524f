"""Caption ⇄ URL."""

from __future__ import annotations

import random

import pytest

from pipeline.core.errors import SourceError
from scrapers.sources.dalleblog.captions import load_catalogue
from scrapers.sources.dalleblog.urls import (
    base64_key,
    caption_of_key,
    image_prompt_url,
    is_plain_name,
    key_kind,
    parse_sample_url,
    sample_url,
    url_template,
)

CDN = "https://cdn.openai.com/dall-e/v2"


def test_the_address_of_a_known_image_is_computed_from_its_caption() -> None:
    key = base64_key("a professional high quality emoji of a lovestruck cup of boba")
    assert sample_url(CDN, "emojis", key, 8) == (
        "https://cdn.openai.com/dall-e/v2/samples/emojis/YSBwcm9mZXNzaW9uYWwgaGlnaCBxdWFsaXR5IGVtb2pp"
        "IG9mIGEgbG92ZXN0cnVjayBjdXAgb2YgYm9iYQ==_8.png"
    )


def test_every_sample_of_the_catalogue_goes_there_and_back() -> None:
    for section in load_catalogue().sections:
        for given in section.given:
            (rank,) = given.ranks
            url = given.address.url()
            parsed = parse_sample_url(url)
            assert parsed is not None
            assert (parsed.section, parsed.rank, parsed.kind) == (section.name, rank, section.key)
            assert parsed.url() == url
            if section.key == "base64":
                assert parsed.caption == given.caption
                assert sample_url(CDN, section.name, base64_key(given.caption), rank) == url


def test_random_captions_go_there_and_back() -> None:
    letters = "abcxyz 0189’‘é?~>ÿœ日本😀'\"/+=_.%&#{}"
    chance = random.Random(7)
    for _ in range(2_000):
        caption = "".join(chance.choices(letters, k=chance.randint(1, 60)))
        rank, section = chance.randrange(100), "".join(chance.choices("abc_-d é", k=6)) + "x"
        url = sample_url(CDN, section, base64_key(caption), rank)
        parsed = parse_sample_url(url)
        assert parsed is not None, url
        kind = key_kind(base64_key(caption))
        assert (parsed.section, parsed.rank) == (section, rank)
        assert parsed.caption == (caption if kind == "base64" else None)
        assert parsed.url() == url


def test_random_names_go_there_and_back_and_stay_one_part_of_the_path() -> None:
    chance = random.Random(8)
    for _ in range(2_000):
        name = "".join(chance.choices("ab_.%/ ?#\\{rank}\0é", k=chance.randint(1, 30))) + "-x"
        url = sample_url(CDN, "rpm", name, 3)
        assert "\0" not in url
        assert url.count("/") == f"{CDN}/samples/rpm/".count("/")
        parsed = parse_sample_url(url)
        assert parsed is not None
        assert (parsed.key, parsed.rank) == (name, 3)


def test_a_slash_in_a_base64_key_stays_in_the_path() -> None:
    caption = "so’s the cat"
    key = base64_key(caption)
    assert "/" in key
    url = sample_url(CDN, "emojis", key, 0)
    assert url.endswith(f"/samples/emojis/{key}_0.png")
    for address in (url, url.replace(key, key.replace("/", "%2F").replace("=", "%3D"))):
        parsed = parse_sample_url(address)
        assert parsed is not None
        assert (parsed.section, parsed.caption, parsed.rank) == ("emojis", caption, 0)


@pytest.mark.parametrize(
    "url",
    [
        f"{CDN}/samples/../secret_0.png",
        f"{CDN}/samples/%2e%2e/secret_0.png",
        f"{CDN}/samples/a%2Fb/secret_0.png",
        f"{CDN}/samples/rpm/../../secret_0.png",
        f"{CDN}/samples/rpm/set/b_0.png",
        f"{CDN}/samples/rpm/set\0b_0.png",
        f"{CDN}/samples/rpm/set\nb_0.png",
        f"{CDN}/samples/rpm/.png",
        f"{CDN}/samples/rpm/{'x' * 10_000}_0.png",
        f"{CDN}/samples/rpm",
        f"{CDN}/image_prompts/rpm.png",
        f"{CDN}/samples/rpm/page.html",
        "https://[broken/samples/rpm/a_0.png",
        "",
    ],
)
def test_what_is_no_image_address_is_refused(url: str) -> None:
    assert parse_sample_url(url) is None


def test_a_name_without_a_rank_keeps_its_address() -> None:
    parsed = parse_sample_url(f"{CDN}/samples/rpm/set_b.png")
    assert parsed is not None
    assert (parsed.key, parsed.rank) == ("set_b", None)
    assert parsed.url() == parsed.template == f"{CDN}/samples/rpm/set_b.png"


def test_the_cdn_tells_the_section_apart_from_folders_of_the_same_name() -> None:
    parsed = parse_sample_url("http://h/samples/v2/samples/rpm/set_b_1.png")
    assert parsed is not None
    assert (parsed.cdn, parsed.section) == ("http://h/samples/v2", "rpm")
    parsed = parse_sample_url("/samples/rpm/set_b_1.png", cdn="")
    assert parsed is not None
    assert parsed.section == "rpm"
    assert parse_sample_url("http://h/other/samples/rpm/set_b_1.png", cdn="http://h/v2") is None


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("091432009673a3a126fdec860933cdce", "hex128"),
        ("4209119978", "uint32"),
        ("4294967296", "name"),
        ("set_b_masked", "name"),
        (base64_key("a cat"), "base64"),
        (base64_key("a cat").rstrip("="), "name"),
    ],
)
def test_the_kind_of_a_key_is_told_by_its_looks(key: str, kind: str) -> None:
    assert key_kind(key) == kind


def test_only_canonical_base64_spells_a_caption() -> None:
    assert caption_of_key("YQ==") == "a"
    assert caption_of_key("YR==") is None
    assert caption_of_key("") is None
    assert caption_of_key(base64_key("a\0b")) is None


def test_a_caption_too_long_for_any_server_is_an_error() -> None:
    with pytest.raises(SourceError, match="servers accept 8,000"):
        url_template(CDN, "emojis", base64_key("a" * 10_000))


def test_the_image_prompt_of_a_section_has_its_name() -> None:
    assert (
        image_prompt_url(CDN + "/", "bedroom_design") == f"{CDN}/image_prompts/bedroom_design.png"
    )


def test_the_query_of_a_url_comes_back_and_its_fragment_does_not() -> None:
    url = f"{CDN}/samples/rpm/set_b_1.png"
    parsed = parse_sample_url(f"{url}?v=2&w={{rank}}#top")
    assert parsed is not None
    assert (parsed.query, parsed.rank) == ("?v=2&w={rank}", 1)
    assert parsed.template == f"{CDN}/samples/rpm/set_b_{{rank}}.png?v=2&w=%7Brank%7D"
    assert parsed.url() == f"{url}?v=2&w=%7Brank%7D"


@pytest.mark.parametrize(("length", "taken"), [(7999, True), (8000, True), (8001, False)])
def test_a_url_may_have_8000_characters(length: int, taken: bool) -> None:
    head, tail = f"{CDN}/samples/rpm/", "_1.png"
    url = head + "x" * (length - len(head) - len(tail)) + tail
    assert len(url) == length
    assert (parse_sample_url(url) is not None) is taken


@pytest.mark.parametrize(("length", "taken"), [(7999, True), (8000, True), (8001, False)])
def test_a_computed_template_may_have_8000_characters(length: int, taken: bool) -> None:
    around = len(f"{CDN}/samples/rpm/") + len("_{rank}.png")
    key = "x" * (length - around - 1) + "-"
    if taken:
        assert len(url_template(CDN, "rpm", key)) == length
        return
    with pytest.raises(SourceError, match="8,001 characters"):
        url_template(CDN, "rpm", key)


@pytest.mark.parametrize(
    ("name", "plain"),
    [("", False), ("x", True), ("x" * 199, True), ("x" * 200, True), ("x" * 201, False),
     (".", False), ("..", False), ("...", False), ("a.b", True), ("a/b", False), ("a\n", False)],
)  # fmt: skip
def test_a_section_is_one_folder_of_up_to_200_characters(name: str, plain: bool) -> None:
    assert is_plain_name(name) is plain


def test_a_name_made_by_hand_is_an_image_by_itself_and_a_key_all_its_ranks() -> None:
    def identity(key: str, rank: int) -> object:
        parsed = parse_sample_url(f"{CDN}/samples/rpm/{key}_{rank}.png")
        assert parsed is not None
        return parsed.identity

    assert identity("set-b", 1) != identity("set-b", 2)
    for key in ("0" * 32, "123", base64_key("a red cube")):
        assert identity(key, 1) == identity(key, 2)
        assert identity(key, 1) != identity("0" * 31 + "1", 1)


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (str(2**32 - 1), "uint32"),
        (str(2**32), "name"),
        ("00", "name"),
        ("0", "uint32"),
        ("f" * 32, "hex128"),
        ("f" * 31, "name"),
        ("F" * 32, "name"),
    ],
)
def test_hex_has_32_small_digits_and_a_number_32_bits(key: str, kind: str) -> None:
    assert key_kind(key) == kind

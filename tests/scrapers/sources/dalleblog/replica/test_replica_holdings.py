"""The contents of the mock server: the catalogue's captions, real keys if known, gaps by seed."""

from __future__ import annotations

import base64

import pytest

from pipeline.core.errors import ConfigError
from pipeline.demo.replica.config import ReplicaConfig
from pipeline.demo.replica.holdings import Holdings
from scrapers.sources.dalleblog.captions import load_catalogue
from scrapers.sources.dalleblog.urls import key_kind

CATALOGUE = load_catalogue()


def test_every_caption_of_the_catalogue_exists_in_one_of_its_forms() -> None:
    holdings = Holdings(ReplicaConfig())
    for section in CATALOGUE.sections:
        entries = list(holdings.entries(section.name))
        extra = len([g for g in section.given if section.match(g.caption) is None])
        if section.key != "name":
            assert len(entries) == section.num_captions + extra
            assert len({entry.key for entry in entries}) == len(entries)


def test_captions_known_from_the_real_page_have_their_real_keys() -> None:
    holdings = Holdings(ReplicaConfig())
    for section in CATALOGUE.sections:
        for given in section.given:
            entry = holdings.find(section.name, given.address.key)
            assert entry is not None, given.address.key
            assert entry.caption == given.caption
            assert set(given.ranks) <= set(entry.ranks)


def test_keys_have_the_kind_of_their_section() -> None:
    holdings = Holdings(ReplicaConfig(seed=3))
    for section in CATALOGUE.sections:
        kinds = {key_kind(entry.key) for entry in holdings.entries(section.name)}
        assert kinds == {section.key}


def test_an_entry_is_found_only_by_its_key() -> None:
    holdings = Holdings(ReplicaConfig(sections=("emojis", "countries")))
    for name in ("emojis", "countries"):
        for entry in list(holdings.entries(name))[:50]:
            assert holdings.find(name, entry.key) == entry
    stranger = base64.b64encode(b"a professional high quality emoji of a bored cat").decode()
    assert holdings.find("emojis", stranger) is None
    assert holdings.find("countries", "17") is None
    assert holdings.find("shape", "209f951d45fd17b3ad1134466d9946c7") is None


def test_one_spelling_of_a_caption_exists_and_not_both() -> None:
    holdings = Holdings(ReplicaConfig(sections=("product_design",), as_written=0.3))
    section = holdings.sections[0]
    written = 0
    for forms in section.captions():
        keys = [base64.b64encode(form.encode()).decode() for form in forms]
        there = [holdings.find("product_design", key) is not None for key in keys]
        assert sum(there) == 1
        written += len(forms) == 2 and there[1]
    two_forms = sum(len(forms) == 2 for forms in section.captions())
    assert 0.2 < written / two_forms < 0.4


def test_missing_ranks_follow_the_seed_and_never_hide_a_caption() -> None:
    def ranks(seed: int) -> list[tuple[int, ...]]:
        config = ReplicaConfig(sections=("unusual_media",), missing_ranks=0.5, seed=seed)
        return [entry.ranks for entry in Holdings(config).entries("unusual_media")]

    first = ranks(1)
    assert first == ranks(1)
    assert first != ranks(2)
    assert all(set(there) & {0, 1} for there in first)
    assert 14 < sum(map(len, first)) / len(first) < 18


def test_keys_that_cannot_be_computed_follow_the_seed() -> None:
    def keys(seed: int) -> set[str]:
        return {e.key for e in Holdings(ReplicaConfig(seed=seed)).entries("bedroom_design")}

    assert keys(1) == keys(1)
    # The one caption whose real key is known keeps it.
    assert len(keys(1) & keys(2)) == 1


def test_only_shown_captions_of_a_hashed_section_can_be_known() -> None:
    holdings = Holdings(ReplicaConfig(shown_captions=10))
    assert len(list(holdings.shown("countries"))) == 10
    assert "a photo of the food of china" in {e.caption for e in holdings.shown("countries")}
    assert len(list(holdings.shown("unusual_media"))) == 1350


def test_an_unknown_section_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="no section 'sandwiches'"):
        Holdings(ReplicaConfig(sections=("emojis", "sandwiches")))

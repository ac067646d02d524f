"""Manifests, there and back: parsing is the inverse of writing, and damage is one kind of error."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.contracts import FileEntry, Manifest
from pipeline.core.errors import ContractError
from pipeline.core.parsing import parse_json
from pipeline.core.stages import CONTRACTS
from pipeline.core.storage import (
    find_current,
    input_digest,
    json_bytes,
    make_manifest,
    manifest_seal,
    parse_manifest,
    read_manifest,
    write_manifest,
)
from tests.helpers.laws import lawful
from tests.helpers.mutations import byte_changes, json_changes

plain = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
hashes = st.integers(0, 2**256 - 1).map("{:064x}".format)
values: Any = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        plain,
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(plain, inner, max_size=3)),
    max_leaves=6,
)
entries = st.builds(
    FileEntry,
    path=plain.filter(bool),
    bytes=st.integers(0, 2**50),
    sha256=hashes,
    rows=st.none() | st.integers(0, 2**40),
)
manifests = st.builds(
    make_manifest,
    st.sampled_from(sorted(CONTRACTS)),
    config=st.dictionaries(plain, values, max_size=4),
    inputs=st.dictionaries(plain, hashes, max_size=3),
    counts=st.dictionaries(plain, st.integers(0, 2**50), max_size=4),
    files=st.lists(entries, max_size=3).map(tuple),
    details=st.dictionaries(plain, values, max_size=3),
)


@lawful(150)
@given(manifest=manifests)
def test_a_manifest_comes_back_as_it_was_written(
    manifest: Manifest, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("manifest")
    write_manifest(folder, manifest)
    assert read_manifest(folder, manifest.contract) == manifest
    inputs, config = manifest.inputs, manifest.config
    assert find_current(folder, manifest.contract, config=config, inputs=inputs) == manifest
    # Written again it has the same bytes and the same seal.
    first = (folder / "manifest.json").read_bytes()
    write_manifest(folder, read_manifest(folder, manifest.contract))
    assert (folder / "manifest.json").read_bytes() == first
    said = json.loads(first)
    assert said.pop("sha256") == manifest_seal(said)


@lawful(100)
@given(manifest=manifests, data=st.data())
def test_any_other_value_breaks_the_seal(manifest: Manifest, data: st.DataObject) -> None:
    said = json.loads(json_bytes(vars(manifest) | {"files": [vars(f) for f in manifest.files]}))
    seal = manifest_seal(said)
    field = data.draw(st.sampled_from(sorted(said)))
    other = data.draw(values)
    changed = {**said, field: other}
    assert (manifest_seal(changed) == seal) == (json.dumps(other) == json.dumps(said[field]))


def example_manifest() -> Manifest:
    entry = FileEntry(path="kept/00000.parquet", bytes=7, sha256="0" * 64, rows=2)
    return make_manifest(
        "dedupe",
        config={"radius": 4},
        inputs={"raw": "1" * 64},
        counts={"rows": 2, "kept": 2, "rejected": 0, "failed": 0},
        files=(entry,),
        details={"sections": {"emojis": {"kept": 2}}},
    )


def read_or_refuse(folder: Path) -> Manifest | None:
    """The manifest, or None for a ContractError; no other error may come."""
    try:
        manifest = read_manifest(folder, "dedupe")
        input_digest(folder)
        return manifest
    except ContractError:
        return None


def test_whatever_happens_to_its_bytes_it_is_a_contract_error_or_a_manifest_that_can_be_told(
    tmp_path: Path,
) -> None:
    whole = example_manifest()
    for name, change in byte_changes(random.Random(5), flips=300):
        folder = tmp_path / name.replace(" ", "-")
        folder.mkdir()
        write_manifest(folder, whole)
        change(folder / "manifest.json")
        found = read_or_refuse(folder)
        if found is None or found == whole:
            continue
        said = json.loads((folder / "manifest.json").read_bytes())
        assert said.pop("sha256", None) != manifest_seal(said), name


def test_any_field_that_is_dropped_or_of_another_type_is_a_contract_error_or_still_a_manifest(
    tmp_path: Path,
) -> None:
    write_manifest(tmp_path, example_manifest())
    text = (tmp_path / "manifest.json").read_text()
    refused = set()
    for name, changed in json_changes(text):
        (tmp_path / "manifest.json").write_text(changed)
        if read_or_refuse(tmp_path) is None:
            refused.add(name.split(" ")[0] + name.split(" ")[1] if name.startswith("w") else name)
    # Without any of these it is none.
    for field in ("contract", "version", "config", "inputs", "counts", "files"):
        assert f"without['{field}']" in refused


@lawful(200)
@given(data=st.binary(max_size=80))
def test_any_bytes_are_a_contract_error(data: bytes) -> None:
    with pytest.raises(ContractError):
        parse_manifest(data, "manifest.json", CONTRACTS["dedupe"])


@lawful(200)
@given(value=values, kind=st.sampled_from([int, str, bool, float, dict[str, Any], list[int]]))
def test_a_value_is_its_type_or_a_contract_error(value: Any, kind: Any) -> None:
    data = json.dumps(value).encode()
    try:
        found = parse_json(kind, data, source="x")
    except ContractError:
        return
    assert found == value
    assert isinstance(found, bool) == isinstance(value, bool)

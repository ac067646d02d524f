from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from pipeline.core.errors import ModelError
from pipeline.models.tokenizers.load import TextTokenizer, load_tokenizer, pad_ids, train_bpe
from tests.oracles.text import dalle_pytorch_tokenizers

CAPTIONS = [
    f"a {colour} {thing} on the {place}"
    for colour in ("red", "green", "blue", "yellow")
    for thing in ("cube", "sphere", "armchair", "café")
    for place in ("table", "floor", "moon")
]


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return train_bpe(CAPTIONS, 320)


def test_captions_come_back(tokenizer: TextTokenizer) -> None:
    for caption, ids in zip(CAPTIONS, tokenizer.encode_batch(CAPTIONS, 24), strict=True):
        assert tokenizer.decode(ids) == caption


def test_any_text_encodes_and_decodes_to_its_folded_form(tokenizer: TextTokenizer) -> None:
    ids = tokenizer.encode("  A\u201cRed\u201d\n  CUBE\u2019s — 漢字 😀 e\u0301", 64)
    assert tokenizer.decode(ids) == 'a"red" cube\'s — 漢字 😀 é'


def test_ids_are_int32_cut_off_and_padded_with_zero(tokenizer: TextTokenizer) -> None:
    (words,) = tokenizer.ids([CAPTIONS[0]])
    long = tokenizer.encode(CAPTIONS[0], 32)
    short = tokenizer.encode(CAPTIONS[0], 2)
    assert long.dtype == np.int32
    assert long.shape == (32,)
    assert long.tolist() == words + [0] * (32 - len(words))
    assert short.tolist() == words[:2]


def test_no_word_has_the_id_of_padding(tokenizer: TextTokenizer) -> None:
    assert all(
        0 not in ids for ids in tokenizer.ids([*CAPTIONS, "<pad", bytes(range(1, 128)).decode()])
    )
    assert tokenizer.ids([""]) == [[]]


def test_a_batch_is_its_captions_one_by_one(tokenizer: TextTokenizer) -> None:
    batch = tokenizer.encode_batch(CAPTIONS, 16)
    assert (batch == np.stack([tokenizer.encode(c, 16) for c in CAPTIONS])).all()


def test_the_vocabulary_is_no_larger_than_asked(tokenizer: TextTokenizer) -> None:
    assert 257 < tokenizer.vocab_size <= 320
    assert max(max(ids) for ids in tokenizer.ids(CAPTIONS)) < tokenizer.vocab_size


def test_ids_beyond_the_vocabulary_are_refused(tokenizer: TextTokenizer) -> None:
    with pytest.raises(ModelError, match="Token id 9999"):
        tokenizer.decode([1, 9999])


def test_training_gives_the_same_bytes_in_any_process() -> None:
    code = (
        "from pipeline.models.tokenizers.load import train_bpe; import sys;"
        "print(train_bpe(sys.argv[1].split('|'), 320).fingerprint)"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code, "|".join(CAPTIONS)],
            env={**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for threads in ("1", "4")
    }
    assert found == {train_bpe(CAPTIONS, 320).fingerprint}


def test_a_tokenizer_is_the_same_after_loading(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(tokenizer.json_bytes)
    for spec in (path, f"hf:{path}", tmp_path):
        loaded = load_tokenizer(spec)
        assert loaded.fingerprint == tokenizer.fingerprint
        assert loaded.ids(CAPTIONS) == tokenizer.ids(CAPTIONS)


def foreign_tokenizer() -> Tokenizer:
    words = ["[PAD]", "a", "red", "blue", "cube", "on", "the", "moon", "[U]", "[END]"]
    foreign = Tokenizer(models.WordLevel({w: n for n, w in enumerate(words)}, unk_token="[U]"))
    foreign.pre_tokenizer = pre_tokenizers.Whitespace()
    foreign.add_special_tokens(["[END]"])
    foreign.post_processor = processors.TemplateProcessing(
        single="$A [END]", special_tokens=[("[END]", 9)]
    )
    return foreign


PADDINGS: dict[str, dict[str, Any] | None] = {
    "no padding": None,
    "to a length": {"length": 9, "pad_id": 8},
    "to a length, on the left": {"length": 9, "pad_id": 8, "direction": "left"},
    "to the longest": {"pad_id": 8},
    "to multiples": {"pad_id": 8, "pad_to_multiple_of": 4},
    "to the next multiple of a length": {"length": 5, "pad_id": 8, "pad_to_multiple_of": 4},
}
TRUNCATIONS: dict[str, dict[str, Any] | None] = {
    "not cut": None,
    "cut": {"max_length": 4},
    "cut on the left": {"max_length": 4, "direction": "left"},
    "cut with a stride": {"max_length": 4, "stride": 2},
    "cut to nothing": {"max_length": 0},
}


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("truncation", TRUNCATIONS)
def test_a_foreign_file_gives_the_ids_of_dalle_pytorch(
    tmp_path: Path, padding: str, truncation: str
) -> None:
    """Its HugTokenizer does the padding and the truncation that the JSON asks for."""
    foreign = foreign_tokenizer()
    if (asked := PADDINGS[padding]) is not None:
        foreign.enable_padding(**asked)
    if (asked := TRUNCATIONS[truncation]) is not None:
        foreign.enable_truncation(**asked)
    path = tmp_path / "foreign.json"
    foreign.save(str(path))
    reference = dalle_pytorch_tokenizers().HugTokenizer(path)
    captions = [
        "",
        "a",
        "a red cube",
        "a blue cube on the moon",
        "red blue red blue red blue",
        "xyz",
    ]
    loaded = load_tokenizer(f"hf:{path}")
    assert loaded.ids(captions) == [reference.encode(caption) for caption in captions]
    theirs = reference.tokenize(captions, 6, truncate_text=True)
    assert loaded.encode_batch(captions, 6).tolist() == theirs.tolist()
    assert [loaded.ids([caption])[0] for caption in captions] == loaded.ids(captions)
    assert loaded.vocab_size == reference.vocab_size == 10


def test_padding_outside_of_the_vocabulary_makes_it_larger(tmp_path: Path) -> None:
    foreign = foreign_tokenizer()
    foreign.enable_padding(length=3, pad_id=40)
    foreign.save(str(tmp_path / "foreign.json"))
    loaded = load_tokenizer(f"hf:{tmp_path / 'foreign.json'}")
    assert loaded.ids(["a"]) == [[1, 40, 40]]
    assert loaded.vocab_size == 41


@pytest.mark.parametrize(
    ("part", "key", "value", "words"),
    [
        ("truncation", "stride", 4, "truncation.stride 4, expected less than its max_length, 4"),
        ("truncation", "strategy", "OnlySecond", "truncation.strategy"),
        ("padding", "strategy", {"Fixed": 10**12}, "padding.length 1000000000000"),
        ("padding", "pad_to_multiple_of", 10**12, "padding.pad_to_multiple_of"),
    ],
)
def test_padding_or_truncation_that_can_not_be_done_is_refused(
    tmp_path: Path, part: str, key: str, value: Any, words: str
) -> None:
    """The library ends in a panic, or in all of the memory, when the first caption comes."""
    foreign = foreign_tokenizer()
    foreign.enable_padding(length=9)
    foreign.enable_truncation(4)
    saved = json.loads(foreign.to_str())
    saved[part][key] = value
    (tmp_path / "foreign.json").write_text(json.dumps(saved))
    with pytest.raises(ModelError, match=words):
        load_tokenizer(f"hf:{tmp_path / 'foreign.json'}")


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff\xfe", json.dumps({"version": "1.0"}).encode()])
def test_files_that_are_no_tokenizer_are_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "some.json").write_bytes(data)
    with pytest.raises(ModelError, match=r"some\.json (is not a tokenizer|can't be read)"):
        load_tokenizer(tmp_path / "some.json")


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nothing\.json is missing"):
        load_tokenizer(f"hf:{tmp_path / 'nothing.json'}")


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("hf", train_bpe(CAPTIONS, 300).json_bytes.decode()),
        ("yttm", "4 3\n9601 4\n97 5\n98 6\n99 7\n4 5 8\n5 6 9\n8 6 10\n1 0 2 3\n"),
        ("clip", "#version\nt h\nth e</w>\n"),
    ],
)
def test_a_vocabulary_with_a_bom_and_the_line_ends_of_windows_is_the_same(
    tmp_path: Path, kind: str, text: str
) -> None:
    plain, windows = tmp_path / "plain.txt", tmp_path / "windows.txt"
    plain.write_bytes(text.encode())
    windows.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    captions = ["ab the cab", CAPTIONS[0]]
    assert load_tokenizer(f"{kind}:{windows}").ids(captions) == (
        load_tokenizer(f"{kind}:{plain}").ids(captions)
    )


@pytest.mark.parametrize("kind", ["hf", "yttm", "clip"])
def test_a_vocabulary_is_read_from_regular_files_alone(tmp_path: Path, kind: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for path, what in ((tmp_path / "pipe", "a pipe"), (Path("/dev/zero"), "a device")):
        with pytest.raises(ModelError, match=f"can't be read: it is {what}"):
            load_tokenizer(f"{kind}:{path}")


def test_a_packed_vocabulary_that_fills_the_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.txt.gz"
    path.write_bytes(gzip.compress(bytes(80 << 20)))
    with pytest.raises(ModelError, match="unpacks to more than 67,108,864 bytes"):
        load_tokenizer(f"clip:{path}")


def test_padding_needs_no_tokenizer() -> None:
    assert pad_ids([[1, 2, 3], []], 2).tolist() == [[1, 2], [0, 0]]

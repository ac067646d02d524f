"""youtokentome models: the same ids and texts as youtokentome itself."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import ModelError
from pipeline.models.tokenizers.load import TextTokenizer, load_tokenizer
from tests.models.tokenizers.test_text_clip import ODD, blog_captions

# Blank, a, b, c; blank+a, ab, blank a+b; unknown 1, padding 0, begin 2, end 3.
SMALL = "4 3\n9601 4\n97 5\n98 6\n99 7\n4 5 8\n5 6 9\n8 6 10\n1 0 2 3\n"
NO_PADDING = {"pad_id": -1, "unk_id": 5, "bos_id": -1, "eos_id": -1}
OTHER_MARKS = {"pad_id": 0, "unk_id": 3, "bos_id": 1, "eos_id": 2, "coverage": 0.98}


def write(folder: Path, model: str = SMALL) -> str:
    path = folder / "vocab.bpe"
    path.write_text(model)
    return f"yttm:{path}"


def train(folder: Path, **options: Any) -> tuple[Any, TextTokenizer]:
    """youtokentome's own model of some captions, and ours of the same file."""
    yttm = pytest.importorskip("youtokentome")
    repeats = "aaaa aaaaaaa aaaaaaaaaa abababab bababa\n" * 50
    (folder / "captions.txt").write_text(repeats + "\n".join(blog_captions(3000)))
    path = str(folder / "vocab.bpe")
    yttm.BPE.train(
        data=str(folder / "captions.txt"), model=path, vocab_size=1200, n_threads=1, **options
    )
    return yttm.BPE(path, n_threads=1), load_tokenizer(f"yttm:{path}")


@pytest.mark.parametrize("options", [{}, NO_PADDING, OTHER_MARKS], ids=str)
def test_ids_and_texts_are_those_of_youtokentome(tmp_path: Path, options: dict[str, Any]) -> None:
    theirs, ours = train(tmp_path, **options)
    draw = random.Random(2)
    odd = ["".join(draw.choices([*ODD, *"aaabbb▁"], k=draw.randint(0, 30))) for _ in range(3000)]
    texts = [*blog_captions(10_000), *odd, "a" * 5000, ""]
    ids = ours.ids(texts)
    assert ids == theirs.encode(texts)
    assert ours.vocab_size == theirs.vocab_size()
    some = [words for words in ids[::9] if words]
    assert [ours.text(words) for words in some] == theirs.decode(some)


def test_padding_is_left_out_of_texts_as_dalle_pytorch_does(tmp_path: Path) -> None:
    theirs, ours = train(tmp_path)
    ids = ours.encode("a cube made of porcupine", 32).tolist()
    assert ids[-1] == 0
    assert ours.decode(ids) == theirs.decode([ids], ignore_ids={0})[0]


def test_the_oldest_rule_comes_first(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write(tmp_path))
    assert tokenizer.ids(["ab  cab"]) == [[10, 4, 7, 9]]
    assert tokenizer.vocab_size == 11
    assert tokenizer.decode([10, 4, 7, 9]) == "ab cab"


def test_characters_in_a_row_that_are_not_known_are_one_unknown(tmp_path: Path) -> None:
    assert load_tokenizer(write(tmp_path)).ids(["axyza xy"]) == [[8, 1, 5, 4, 1]]


def test_it_travels_as_a_json(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write(tmp_path))
    (tmp_path / "tokenizer.json").write_bytes(tokenizer.json_bytes)
    again = load_tokenizer(tmp_path)
    assert again.fingerprint == tokenizer.fingerprint
    assert again.ids(["ab cab"]) == tokenizer.ids(["ab cab"])


def doubling(rules: int) -> str:
    """A model of few bytes, in which each rule doubles the piece of the one before."""
    lines = [f"2 {rules}", "9601 4", "97 5"]
    lines += [f"{4 + n} {4 + n} {5 + n}" for n in range(1, rules + 1)]
    return "\n".join([*lines, "1 0 2 3"])


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        ("", "0 numbers"),
        ("4 3\n9601 4\n", "4 numbers"),
        ("{}", "invalid literal"),
        (SMALL.replace("9601", "9600"), "no id for U.2581"),
        (SMALL.replace("8 6 10", "8 77 10"), "ids 8 and 77, which are not defined"),
        (SMALL.replace("97 5", "97 -5"), "an id below 0"),
        (SMALL.replace("97 5", "1114112 5"), "not in range"),
        (SMALL.replace("97 5", f"{10**30} 5"), "too large"),
        (doubling(60), "would be more than 10000 characters"),
    ],
)
def test_files_that_are_no_model_are_named(tmp_path: Path, model: str, complaint: str) -> None:
    with pytest.raises(ModelError, match=rf"vocab\.bpe is not a youtokentome model .*{complaint}"):
        load_tokenizer(write(tmp_path, model))

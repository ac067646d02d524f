"""Tokenizers, there and back: laws over any text."""

from __future__ import annotations

import re
import unicodedata

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.core.contracts import PADDING_ID
from pipeline.core.errors import ModelError
from pipeline.models.tokenizers.load import TextTokenizer, pad_ids, parse_tokenizer, train_bpe
from tests.helpers.laws import lawful

# White space by Unicode; Python counts four control characters more, which captions never hold.
WHITE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
WORDS = ("a", "red", "cube", "“avocado”", "café", "so’s", "玻璃", "🐧")
texts = st.one_of(
    st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=30),
    st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join),
)
TOKENIZER = train_bpe([f"a {word} on a {other}" for word in WORDS for other in WORDS], 400)


def fold(text: str) -> str:
    """What `train_bpe` says of a text: NFC, lower case, ASCII quotes, one space between words."""
    text = unicodedata.normalize("NFC", text)
    text = "".join(letter.lower() for letter in text)
    text = re.sub("[‘’]", "'", re.sub("[“”]", '"', text))
    return re.sub(f"[{WHITE}]+", " ", text).strip(" ")


@lawful(200)
@given(text=texts)
@example(text="")
@example(text="  A “Red”\n CUBE’s  ")
def test_any_text_comes_back_in_its_folded_form(text: str) -> None:
    (ids,) = TOKENIZER.ids([text])
    assert all(0 < i < TOKENIZER.vocab_size for i in ids)
    found = TOKENIZER.decode(ids)
    assert found == fold(text)
    # Encoding that again changes nothing.
    assert TOKENIZER.decode(TOKENIZER.ids([found])[0]) == found


@lawful(100)
@given(captions=st.lists(texts, max_size=5), length=st.integers(1, 40))
def test_a_batch_is_its_captions_one_by_one_cut_and_padded(
    captions: list[str], length: int
) -> None:
    batch = TOKENIZER.encode_batch(captions, length)
    assert batch.shape == (len(captions), length)
    assert batch.dtype == np.int32
    for caption, row, ids in zip(captions, batch.tolist(), TOKENIZER.ids(captions), strict=True):
        assert row == (ids + [PADDING_ID] * length)[:length]
        assert TOKENIZER.encode(caption, length).tolist() == row
        if len(ids) <= length:
            assert TOKENIZER.decode(row) == fold(caption)


@lawful(100)
@given(
    ids=st.lists(st.lists(st.integers(1, 1000), max_size=12), max_size=4), length=st.integers(1, 8)
)
def test_ids_are_cut_at_the_length_and_padded_up_to_it(ids: list[list[int]], length: int) -> None:
    for row, words in zip(pad_ids(ids, length).tolist(), ids, strict=True):
        assert row[: len(words)] == words[:length]
        assert set(row[len(words) :]) <= {PADDING_ID}
        assert len(row) == length


@pytest.mark.parametrize("beyond", [0, 1, 1000])
def test_ids_end_below_the_size_of_the_vocabulary(beyond: int) -> None:
    assert TOKENIZER.decode([TOKENIZER.vocab_size - 1])
    with pytest.raises(ModelError, match=rf"ids 0\.\.{TOKENIZER.vocab_size - 1}"):
        TOKENIZER.decode([TOKENIZER.vocab_size + beyond])
    with pytest.raises(ModelError):
        TOKENIZER.decode([-1])


@lawful(40)
@given(text=texts)
def test_a_tokenizer_that_was_written_and_read_is_the_same(text: str) -> None:
    assert AGAIN.fingerprint == TOKENIZER.fingerprint
    assert AGAIN.vocab_size == TOKENIZER.vocab_size
    assert AGAIN.ids([text]) == TOKENIZER.ids([text])


AGAIN: TextTokenizer = parse_tokenizer(TOKENIZER.json_bytes, "tokenizer.json")

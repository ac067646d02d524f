"""youtokentome's tokenizer, loaded from its model file (`vocab.bpe`) without that library.

The file is text: the numbers of characters and rules; a line `code point, id` for each character; a line
`left id, right id, new id` for each rule, in the order in which they were learned; the ids of the unknown,
padding, begin and end tokens, -1 if there is none. Every word starts with U+2581, which represents the space
before it. Format and algorithm: github.com/VKCOM/YouTokenToMe, cpp/utils.cpp and cpp/bpe.cpp
(`encode_sentence`, without dropout).
"""

from __future__ import annotations

import heapq
import itertools
import json
import re
from collections.abc import Iterator, Sequence

from pipeline.core.errors import ModelError
from pipeline.models.tokenizers.base import TextTokenizer

KIND = "yttm"
_BLANK = "\u2581"
# The reference's white space, which excludes other Unicode spaces.
_WORD = re.compile(rf"[^\t\n\v\f\r {_BLANK}]+")
_MARKS = ("<UNK>", "<PAD>", "<BOS>", "<EOS>")
_GONE = -1
_LONGEST_PIECE = 10_000


class YttmTokenizer(TextTokenizer):
    """A youtokentome model; `model` is the text of its file, stored as JSON.

    Raises ModelError if the text is not such a model.
    """

    def __init__(self, model: str, name: str) -> None:
        super().__init__((json.dumps({"kind": KIND, "model": model}) + "\n").encode())
        try:
            chars, rules, marks = _read_model(model)
            self._pieces = _spell(chars, rules, marks)
        except (ValueError, OverflowError) as error:
            raise ModelError(
                f"{name} is not a youtokentome model ({error}). Expected the file that its "
                "`BPE.train` writes."
            ) from error
        self._char_ids = chars
        self._rules = rules
        self._ranks = {(left, right): rank for rank, (left, right, _) in enumerate(rules)}
        self._unknown = marks[0]
        self.vocab_size = 1 + max(self._pieces)
        self._known_words: dict[str, list[int]] = {}

    def ids(self, captions: Sequence[str]) -> list[list[int]]:
        """The ids of each caption, neither truncated nor padded, without begin and end tokens."""
        return [
            [i for word in _WORD.findall(caption) for i in self._word_ids(word)]
            for caption in captions
        ]

    def text(self, ids: Sequence[int]) -> str:
        """The text of ids, without the space before the first word."""
        spoken = "".join(self._pieces.get(i, "") for i in ids)
        return spoken.replace(_BLANK, " ").removeprefix(" ")

    def _word_ids(self, word: str) -> list[int]:
        if word not in self._known_words:
            merged = self._merge(list(self._start(word)))
            self._known_words[word] = merged
        return self._known_words[word]

    def _start(self, word: str) -> Iterator[int]:
        """An id for each character; consecutive unknown characters become one unknown id."""
        yield self._char_ids[_BLANK]
        after_unknown = False
        for char in word:
            if char in self._char_ids:
                yield self._char_ids[char]
            elif not after_unknown:
                yield self._unknown
            after_unknown = char not in self._char_ids

    def _merge(self, ids: list[int]) -> list[int]:
        """Apply the rules in the order learned, each from left to right."""
        after = [*range(1, len(ids)), _GONE]
        before = list(range(-1, len(ids) - 1))
        queue: list[tuple[int, int]] = []

        def consider(left: int) -> None:
            if left >= 0 and after[left] >= 0:
                rank = self._ranks.get((ids[left], ids[after[left]]))
                if rank is not None:
                    heapq.heappush(queue, (rank, left))

        for place in range(len(ids)):
            consider(place)
        while queue:
            rank, left = heapq.heappop(queue)
            right = after[left]
            rule = self._rules[rank]
            if right < 0 or (ids[left], ids[right]) != rule[:2]:
                continue  # one of the two has been merged in the meantime
            ids[left], ids[right] = rule[2], _GONE
            after[left], after[right] = after[right], _GONE
            if after[left] >= 0:
                before[after[left]] = left
            consider(before[left])
            consider(left)
        alive = [i for i in ids if i != _GONE]
        # In a model without padding id 0 is a character, but the reference skips it at the start of a word.
        return list(itertools.dropwhile(lambda i: i == 0, alive))


Rule = tuple[int, int, int]


def _read_model(model: str) -> tuple[dict[str, int], list[Rule], tuple[int, ...]]:
    """Ids of characters, rules, and the four special tokens. Raises ValueError with the reason."""
    numbers = [int(word) for word in model.split()]
    if len(numbers) < 2 or len(numbers) != 2 + 2 * numbers[0] + 3 * numbers[1] + 4:
        raise ValueError(f"it has {len(numbers)} numbers, which does not match its first two")
    rules_start = 2 + 2 * numbers[0]
    pairs = iter(numbers[2:rules_start])
    chars = {chr(code_point): i for code_point, i in zip(pairs, pairs, strict=True)}
    triples = iter(numbers[rules_start:-4])
    rules = list(zip(triples, triples, triples, strict=True))
    if _BLANK not in chars:
        raise ValueError("it has no id for U+2581, the space")
    if min(numbers[2:-3]) < 0:  # characters, rules, and the unknown token, which every model has
        raise ValueError("it has an id below 0")
    return chars, rules, tuple(numbers[-4:])


def _spell(chars: dict[str, int], rules: Sequence[Rule], marks: Sequence[int]) -> dict[int, str]:
    """The text of each id."""
    pieces = {i: char for char, i in chars.items()}
    for left, right, made in rules:
        if left not in pieces or right not in pieces:
            raise ValueError(f"a rule joins the ids {left} and {right}, which are not defined")
        pieces[made] = pieces[left] + pieces[right]
        if len(pieces[made]) > _LONGEST_PIECE:  # each rule could double the length
            raise ValueError(f"the id {made} would be more than {_LONGEST_PIECE} characters")
    return pieces | {i: mark for i, mark in zip(marks, _MARKS, strict=True) if i != -1}

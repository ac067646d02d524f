"""CLIP's tokenizer: the ids of dalle-pytorch's `SimpleTokenizer`, and where its vocabulary comes from."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import ModelError
from pipeline.models.published import PublishedFile
from pipeline.models.tokenizers import clip_files as text_clip_files
from pipeline.models.tokenizers.clip import read_merges
from pipeline.models.tokenizers.load import load_tokenizer
from scrapers.sources.dalleblog.captions import load_catalogue
from tests.oracles.text import dalle_pytorch_tokenizers

pytest.importorskip("ftfy")
MERGES = ["t h", "th e</w>", "c u", "cu b", "cub e</w>", "r e", "re d</w>", "o n</w>", "f i"]
HEADING = '"bpe_simple_vocab_16e6.txt#version: 0.2'
# What ftfy mends, what HTML hides, what is white space, what is a letter, a number, neither.
ODD = [*"abc ABCZ'’“”\"!?.,;:-_&<>0123456789²½Ⅷ漢字éèüßΣςſ\u0301\u00a0\u2003\t\n😀ﬁ"]
ODD += ["&amp;", "&amp;lt;b&amp;gt;", "'s", "'LL", "'Re", "Ã©", "the cube", "red on"]


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    path = tmp_path / "small.txt"
    path.write_text("\n".join([HEADING, *MERGES]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def reference() -> Any:
    return dalle_pytorch_tokenizers()


def blog_captions(count: int) -> list[str]:
    """Captions of the blog, drawn from all of its sections, as the page writes them."""
    forms = [form for s in load_catalogue().sections for c in s.captions() for form in c]
    return random.Random(0).sample(forms, count)


def odd_texts(count: int) -> list[str]:
    draw = random.Random(1)
    return ["".join(draw.choices(ODD, k=draw.randint(0, 25))) for _ in range(count)]


def test_ids_are_those_of_dalle_pytorch_on_ten_thousand_captions(reference: Any) -> None:
    tokenizer = load_tokenizer("clip")
    captions = blog_captions(10_000)
    assert tokenizer.vocab_size == reference.tokenizer.vocab_size == 49_408
    assert tokenizer.ids(captions) == [reference.tokenizer.encode(caption) for caption in captions]


def test_ids_of_odd_texts_are_those_of_dalle_pytorch(reference: Any) -> None:
    tokenizer = load_tokenizer("clip")
    texts = odd_texts(2000)
    ids = tokenizer.ids(texts)
    assert ids == [reference.tokenizer.encode(text) for text in texts]
    spoken = [tokenizer.decode(words) for words in ids]
    assert spoken == [reference.tokenizer.decode(words).strip() for words in ids]


def test_another_vocabulary_gives_the_ids_of_dalle_pytorch(
    reference: Any, vocabulary: Path
) -> None:
    theirs = reference.SimpleTokenizer(str(vocabulary))
    ours = load_tokenizer(f"clip:{vocabulary}")
    texts = [*odd_texts(500), *blog_captions(500)]
    assert ours.ids(texts) == [theirs.encode(text) for text in texts]


def test_a_small_vocabulary_is_counted_by_hand(vocabulary: Path) -> None:
    tokenizer = load_tokenizer(f"clip:{vocabulary}")
    first = 512  # 256 bytes, and the same at the end of a word
    assert tokenizer.vocab_size == first + len(MERGES) + 2
    assert tokenizer.ids(["The  Red\u00a0CUBE"]) == [[first + 1, first + 6, first + 4]]
    assert tokenizer.decode([first + 1, 0, first + 6, tokenizer.vocab_size - 1]) == "the red"


def test_it_travels_as_a_json(vocabulary: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(f"clip:{vocabulary}")
    (tmp_path / "tokenizer.json").write_bytes(tokenizer.json_bytes)
    again = load_tokenizer(tmp_path)
    assert again.fingerprint == tokenizer.fingerprint
    assert again.ids(blog_captions(100)) == tokenizer.ids(blog_captions(100))


def test_a_zipped_vocabulary_is_the_same(vocabulary: Path, tmp_path: Path) -> None:
    zipped = tmp_path / "small.txt.gz"
    zipped.write_bytes(gzip.compress(vocabulary.read_bytes()))
    assert (
        load_tokenizer(f"clip:{zipped}").fingerprint
        == load_tokenizer(f"clip:{vocabulary}").fingerprint
    )


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (["a b c"], "has the line 'a b c', expected two pieces"),
        (["th e"], "invalid merges"),
    ],
)
def test_lines_that_are_no_merges_are_named(
    tmp_path: Path, lines: list[str], complaint: str
) -> None:
    (tmp_path / "bad.txt").write_text("\n".join([HEADING, *lines]))
    with pytest.raises(ModelError, match=complaint):
        load_tokenizer(f"clip:{tmp_path / 'bad.txt'}")


@pytest.mark.parametrize("saved", [{"kind": "clip"}, {"kind": "clip", "merges": 3}, {"kind": "x"}])
def test_an_invalid_json_is_named(tmp_path: Path, saved: dict[str, Any]) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(saved))
    with pytest.raises(ModelError, match=r"tokenizer\.json is "):
        load_tokenizer(tmp_path)


# --- Where the vocabulary is looked for ----------------------------------------------------------


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, vocabulary: Path) -> None:
    """No package and no cache has a vocabulary; the published one is the small one."""
    merges = read_merges(vocabulary.read_text())
    monkeypatch.setattr(text_clip_files, "PACKAGES", {})
    monkeypatch.setattr(text_clip_files, "is_published", lambda found: found == merges)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub-home"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)


@pytest.mark.usefixtures("nowhere")
def test_the_cache_of_transformers_is_looked_at(tmp_path: Path, vocabulary: Path) -> None:
    snapshot = tmp_path / "hub-home/hub/models--openai--clip-vit-base-patch32/snapshots/abc"
    snapshot.mkdir(parents=True)
    (snapshot / "merges.txt").write_bytes(vocabulary.read_bytes())
    found = load_tokenizer("clip", cache=tmp_path / "empty")
    assert found.fingerprint == load_tokenizer(f"clip:{vocabulary}").fingerprint


@pytest.mark.usefixtures("nowhere")
def test_offline_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = PublishedFile(name="v.txt.gz", url="http://127.0.0.1:9/v.txt.gz", sha256="0" * 64)
    monkeypatch.setattr(text_clip_files, "CLIP_VOCABULARY", published)
    with pytest.raises(ModelError, match=r"can't be downloaded .* put it at .*v\.txt\.gz"):
        load_tokenizer("clip", cache=tmp_path / "cache")

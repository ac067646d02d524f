from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.contracts import CAPTIONS
from pipeline.core.errors import ContractError, DamageError, WorkspaceError
from pipeline.core.storage import (
    arrow_schema,
    file_entry,
    make_manifest,
    read_manifest,
    write_manifest,
)
from pipeline.core.workspace import Workspace
from pipeline.models.tokenizers.load import load_tokenizer
from pipeline.train_tokenizer.config import TrainTokenizerConfig
from pipeline.train_tokenizer.run import run

SPLITS = {"a red cube": "train", "a blue cube": "train", "zzzz zzzz zzzz": "val"}


def make_dedupe(root: Path, captions: dict[str, str] = SPLITS) -> Path:
    folder = Workspace(root).dedupe
    folder.mkdir(parents=True, exist_ok=True)
    blank = dict.fromkeys(column.name for column in CAPTIONS)
    rows = [blank | {"caption": caption, "split": split} for caption, split in captions.items()]
    path = folder / "captions.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=arrow_schema(CAPTIONS)), path)
    files = (file_entry(path, folder, rows=len(rows)),)
    write_manifest(folder, make_manifest("dedupe", config={}, inputs={}, counts={}, files=files))
    return root


def test_a_tokenizer_is_trained_and_declared(tmp_path: Path) -> None:
    make_dedupe(tmp_path)
    report = run(TrainTokenizerConfig(workspace=tmp_path, vocab_size=300))
    folder = Workspace(tmp_path).tokenizer("bpe")
    tokenizer = load_tokenizer(folder)
    assert report.outcome == "done"
    assert tokenizer.decode(tokenizer.encode("a red cube", 16)) == "a red cube"
    manifest = read_manifest(folder, "tokenizer")
    assert manifest.details["fingerprint"] == tokenizer.fingerprint == manifest.files[0].sha256
    assert manifest.counts == {"captions": 2, "vocab_size": tokenizer.vocab_size}


def test_validation_captions_teach_nothing(tmp_path: Path) -> None:
    make_dedupe(tmp_path)
    run(TrainTokenizerConfig(workspace=tmp_path))
    tokenizer = load_tokenizer(Workspace(tmp_path).tokenizer("bpe"))
    assert len(tokenizer.ids(["zzzz"])[0]) == 5
    assert len(tokenizer.ids(["cube"])[0]) == 1


def test_the_same_captions_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        run(TrainTokenizerConfig(workspace=make_dedupe(tmp_path / name)))
    for file in ("tokenizer.json", "manifest.json"):
        one, two = (Workspace(tmp_path / n).tokenizer("bpe") / file for n in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_nothing_is_done_twice_and_new_captions_are_learnt(tmp_path: Path) -> None:
    config = TrainTokenizerConfig(workspace=make_dedupe(tmp_path))
    first = run(config)
    assert run(config).outcome == "unchanged"
    make_dedupe(tmp_path, SPLITS | {"many many wombats": "train", "wombats": "train"})
    assert run(config).details != first.details


def test_a_killed_run_leaves_nothing_that_counts(tmp_path: Path) -> None:
    config = TrainTokenizerConfig(workspace=make_dedupe(tmp_path))
    run(config)
    folder = Workspace(tmp_path).tokenizer("bpe")
    whole = (folder / "tokenizer.json").read_bytes()
    (folder / "manifest.json").unlink()
    (folder / "tokenizer.json").rename(folder / "tokenizer.json.partial")
    assert run(config).outcome == "done"
    assert (folder / "tokenizer.json").read_bytes() == whole
    assert {p.name for p in folder.iterdir()} == {"tokenizer.json", "manifest.json"}


def test_a_vocabulary_that_the_captions_do_not_fill_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_dedupe(tmp_path)
    report = run(TrainTokenizerConfig(workspace=tmp_path, vocab_size=512))
    found = report.counts["vocab_size"]
    assert 257 < found < 512
    assert (
        f"The tokenizer has {found} ids instead of --vocab-size 512: its 2 training captions have no more "
        "pairs to merge." in caplog.text
    )
    caplog.clear()
    run(TrainTokenizerConfig(workspace=tmp_path, vocab_size=258))
    assert "--vocab-size" not in caplog.text


def test_a_changed_table_of_captions_is_refused(tmp_path: Path) -> None:
    make_dedupe(tmp_path)
    table = Workspace(tmp_path).dedupe / "captions.parquet"
    data = bytearray(table.read_bytes())
    data[len(data) // 2] ^= 1
    table.write_bytes(data)
    with pytest.raises(DamageError, match=r"captions\.parquet does not match the sha256.*--repair"):
        run(TrainTokenizerConfig(workspace=tmp_path))


def test_a_folder_of_the_user_is_refused_and_left_alone(tmp_path: Path) -> None:
    make_dedupe(tmp_path)
    note = Workspace(tmp_path).tokenizer("bpe") / "note.txt"
    note.parent.mkdir(parents=True)
    note.write_text("mine")
    with pytest.raises(WorkspaceError, match=r"holds note\.txt"):
        run(TrainTokenizerConfig(workspace=tmp_path))
    assert [p.name for p in note.parent.iterdir()] == ["note.txt"]


def test_no_training_caption_is_explained(tmp_path: Path) -> None:
    make_dedupe(tmp_path, {"only": "val"})
    with pytest.raises(ContractError, match="no captions in the training split"):
        run(TrainTokenizerConfig(workspace=tmp_path))


def test_dedupe_must_have_finished(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="has not finished"):
        run(TrainTokenizerConfig(workspace=tmp_path))


def test_a_finished_tokenizer_is_never_replaced(tmp_path: Path) -> None:
    config = TrainTokenizerConfig(workspace=make_dedupe(tmp_path))
    run(config)
    first = (Workspace(tmp_path).tokenizer("bpe") / "tokenizer.json").read_bytes()
    make_dedupe(tmp_path, SPLITS | {"many many wombats": "train"})
    assert run(config).outputs == (str(Workspace(tmp_path).tokenizer("bpe-2")),)
    assert (Workspace(tmp_path).tokenizer("bpe") / "tokenizer.json").read_bytes() == first


@pytest.mark.parametrize("vocab_size", [257, 258, 270])
def test_the_vocabulary_has_the_size_asked_for_where_captions_suffice(
    vocab_size: int, tmp_path: Path
) -> None:
    captions = {
        f"a {colour} cube on a {thing}": "train"
        for colour in ("red", "blue")
        for thing in ("table", "chair")
    }
    make_dedupe(tmp_path, captions)
    counts = run(TrainTokenizerConfig(workspace=tmp_path, vocab_size=vocab_size)).counts
    assert counts == {"captions": 4, "vocab_size": vocab_size}

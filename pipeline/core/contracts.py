"""The contracts on disk: folder layout, table schemas, closed sets of statuses, format versions.

Stages never import each other; they communicate through the folders described here. Tables are described as
plain data, so that `pipeline --help` needs no pyarrow; see `pipeline.core.storage.arrow_schema`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple, get_args

WORKSPACE_VERSION = 1

# --- The raw store -----------------------------------------------------------------------------

UrlState = Literal[
    "pending",  # not requested yet, or to be requested again
    "done",  # its bytes are in a segment, or in a file outside the workspace
    "missing",  # 404, 410
    "failed",  # every attempt failed
    "opted_out",  # an opt-out signal forbids its use; `evidence` has the signal
    "not_an_image",  # status 200, but not an image
    "truncated",  # an image that ends early on every attempt
    "hash_mismatch",  # its bytes have another hash than the source says
]
URL_STATES: tuple[str, ...] = get_args(UrlState)

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = get_args(Split)


class Column(NamedTuple):
    """A column of a table: its name, its Arrow type by name, and its meaning."""

    name: str
    type: str
    doc: str


# What readers may query in `raw/ledger.sqlite`: the columns of its view `items`, one row per URL.
# They may also query the tables `latencies` and `host_latencies` (see `pipeline.core.latencies`); earlier
# ledgers lack them. The other tables beneath the view are private to the scraper.
LEDGER_ITEMS: tuple[Column, ...] = (
    Column("url", "string", "The URL that is requested; unique."),
    Column("key", "string", "Name of the image's files in the segments, [a-z0-9_-]+; unique."),
    Column("source", "string", "Name of the source, such as `dalleblog`."),
    Column("section", "string", "Section of the page, such as `emojis`."),
    Column("caption", "string", "The caption as the source gives it."),
    Column("rank", "int64", "Rank of the image by CLIP, 0 is best; null if it has none."),
    Column("masked", "int64", "1 if an image prompt supplied the upper part of the image."),
    Column("state", "string", "One of `UrlState`."),
    Column("status_code", "int64", "Status of the last HTTP response; null if there was none."),
    Column(
        "reason",
        "string",
        "One word: why it is not done, or what is unusual about an image that is done.",
    ),
    Column("attempts", "int64", "Number of requests made."),
    Column("etag", "string", "ETag of the stored bytes."),
    Column("last_modified", "string", "Last-Modified of the stored bytes."),
    Column("final_url", "string", "The URL after redirects."),
    Column("sha256", "string", "Hash of the stored bytes, hex."),
    Column("bytes", "int64", "Length of the stored bytes."),
    Column(
        "segment",
        "string",
        "Name of the segment, such as `00000.tar`, or path or URL of an indexed file outside the workspace.",
    ),
    Column("offset", "int64", "Where the bytes start in the segment or file."),
    Column("first_time", "string", "When it was first requested, ISO 8601 UTC."),
    Column("last_time", "string", "When it was last requested, ISO 8601 UTC."),
    Column(
        "evidence",
        "string",
        "The opt-out signal as JSON: which one, where and when it was found, and its text.",
    ),
    Column("captions", "string", "All captions as a JSON list; null if there is only one."),
    Column(
        "extra", "string", "Whatever else the source says about it, as a JSON object; may be null."
    ),
    Column(
        "original_sha256",
        "string",
        "Hash of the bytes that came, hex, if they were resized before they were stored; else null.",
    ),
)


# --- Dedupe --------------------------------------------------------------------------------------

RejectReason = Literal[
    "not_fetched",  # the ledger has no bytes for it: missing, failed, opted out…
    "not_decodable",  # no decoder can read it
    "missing_decoder",  # its format needs a package that is not installed
    "decoder_crashed",  # it crashed the decoder's process
    "too_large",  # more pixels than the limit: possibly a decompression bomb
    "looks_cut",  # part of its data is missing; `--cut keep` keeps it, flagged
    "bad_caption",  # each of its captions is empty, or has an unfilled `{}`
    "duplicate_bytes",  # the same bytes as a better row
    "duplicate_pixels",  # the same RGB raster as a better row, in other bytes
    "near_duplicate",  # its perceptual hash is within the radius of the row that represents it
    "masked",  # its upper part came from an image prompt, and `--masked drop` was given
]
REJECT_REASONS: tuple[str, ...] = get_args(RejectReason)

_NORMALIZED = Column(
    "caption_normalized",
    "string",
    "The caption in lower case, with ASCII quotes and no invisible characters.",
)
# What is measured of an image's pixels.
_RASTER: tuple[Column, ...] = (
    Column("pixel_sha256", "string", "Hash of the RGB raster and its size, hex."),
    Column("phash", "uint64", "64-bit DCT perceptual hash."),
    Column("mean_red", "float32", "Mean of the red channel, 0..255."),
    Column("mean_green", "float32", "Mean of the green channel, 0..255."),
    Column("mean_blue", "float32", "Mean of the blue channel, 0..255."),
    Column("is_blank", "bool", "All pixels have the same colour."),
    Column("looks_cut", "bool", "Part of the data is missing; the decoder filled in the rest."),
)
# Tables of version 1 lack `captions` and `extra`: `kept_images.read_image_tables` adds them.
_IMAGE: tuple[Column, ...] = (
    Column("key", "string", "The sample's key, as in the ledger; unique."),
    Column("url", "string", "URL of the image."),
    Column("source", "string", "Name of the source."),
    Column("section", "string", "Section of the page."),
    Column("caption_id", "string", "Hash of `caption_normalized`, 16 hex digits; never changes."),
    Column("caption", "string", "The caption: NFC, white space collapsed, quotes as on the page."),
    Column(
        "captions",
        "list<string>",
        "All usable captions, `caption` first, cleaned like it; each `caption_id` once.",
    ),
    Column("extra", "string", "What else the source says of it, a JSON object or null."),
    Column("rank", "int32", "Rank of the image by CLIP, 0 is best; null if it has none."),
    Column("segment", "string", "Segment, or file outside the workspace, that holds the bytes."),
    Column("offset", "int64", "Where the bytes start in the segment."),
    Column("bytes", "int64", "Length of the bytes."),
    Column("bytes_sha256", "string", "Hash of the bytes, hex."),
)

# dedupe/kept/*.parquet, one row per image, sorted by key.
KEPT: tuple[Column, ...] = (
    *_IMAGE,
    _NORMALIZED,
    Column("format", "string", "png, jpeg, …"),
    Column("width", "int32", "In pixels."),
    Column("height", "int32", "In pixels."),
    Column("mode", "string", "The file's mode in Pillow: RGB, P, RGBA, L, …"),
    Column("has_alpha", "bool", "The file has transparency."),
    *_RASTER,
    Column(
        "masked_rows",
        "int32",
        "Number of pixel rows at the top that came from the image prompt; 0 if none.",
    ),
    Column(
        "cluster",
        "string",
        "Key of the leader of its cluster of near duplicates; its own key if it is the leader.",
    ),
    Column("split", "string", "train or val; the same for all captions with similar images."),
)

# dedupe/rejected/*.parquet, one row per image, sorted by key.
REJECTED: tuple[Column, ...] = (
    *_IMAGE,
    Column("reason", "string", "Why it is rejected."),
    Column("detail", "string", "Details of the reason."),
    Column("stands_for", "string", "Key of the kept row that represents it; null if none does."),
)

# dedupe/captions.parquet, one row per normalised caption, sorted by caption_id.
CAPTIONS: tuple[Column, ...] = (
    Column("caption_id", "string", "Hash of `caption_normalized`, 16 hex digits."),
    Column(
        "caption",
        "string",
        "The caption as on the page; if it differs by section, that of the first section.",
    ),
    _NORMALIZED,
    Column("sections", "list<string>", "Sections that have this caption, sorted."),
    Column("images", "int32", "Number of kept images."),
    Column("ranks", "uint64", "Bit r is set if an image of rank r is kept (r < 64)."),
    Column("split", "string", "train or val."),
)

# dedupe/inspections.parquet, one row per distinct file of the ledger, sorted by bytes_sha256: the facts found
# in it. The next run takes them from here instead of inspecting the file again.
INSPECTIONS: tuple[Column, ...] = (
    Column("bytes_sha256", "string", "Hash of the bytes, hex; unique."),
    Column("status", "string", "ok, not_decodable, missing_decoder, too_large or decoder_crashed."),
    Column("detail", "string", "What is wrong with the file; null if ok."),
    Column("format", "string", "png, jpeg, …; this and all following columns are null unless ok."),
    Column(
        "width", "int32", "In pixels, after applying the EXIF orientation; also set for too_large."
    ),
    Column(
        "height", "int32", "In pixels, after applying the EXIF orientation; also set for too_large."
    ),
    Column("mode", "string", "The file's mode in Pillow."),
    Column("has_alpha", "bool", "The file has transparency."),
    *_RASTER,
    Column(
        "bands",
        "binary",
        "Null unless masked: 32 hashes of 8 bytes, of the upper 1/32, 2/32, … of the rows.",
    ),
)

# --- Codes -----------------------------------------------------------------------------------------

# codes/<codec>-<fingerprint>/*.parquet, one row per image and view, sorted by pixel_sha256, view.
CODES: tuple[Column, ...] = (
    Column("pixel_sha256", "string", "Hash of the RGB raster, as in `kept`."),
    Column("view", "string", "center, flip…"),
    Column("codes", "list<uint16>", "Codebook indices, row by row from the top left."),
)


@dataclass(frozen=True, kw_only=True)
class CodecFacts:
    """`details["codec"]` in a manifest of codes: the codec that made them; `grid` is (rows, columns)."""

    name: str
    fingerprint: str
    num_tokens: int = field(metadata={"low": 1, "high": 65_536})
    image_size: int = field(metadata={"low": 1, "high": 65_536})
    grid: tuple[int, int] = field(metadata={"low": 1, "high": 65_536})


# --- Shards ----------------------------------------------------------------------------------------

# Members of a sample in shards/<name>/{train,val}/NNNNNN.tar, in this order.
SHARD_MEMBERS: tuple[str, ...] = ("txt", "json", "tokens.npy", "codes.npy")

ShardReason = Literal[
    "no_codes",  # failed: the codec has no codes for its pixels
    "bad_key",  # failed: its key can't name members of a tar
    "long_caption",  # rejected: more token ids than fit, and `--long-captions reject` was given
]

# shards/<name>/left_out.parquet, one row per sample that is in no shard, sorted by key. The key of a further
# caption is that of its image with a suffix; the texts of the columns are in the file, and so in its hash.
LEFT_OUT: tuple[Column, ...] = (
    Column("key", "string", "The sample's key, as in `kept`."),
    Column("status", "string", "failed or rejected."),
    Column("reason", "string", "One of `ShardReason`."),
    Column("detail", "string", "What exactly was found."),
)

# Id 0 is padding in each of our tokenizers, as in DALLE-pytorch.
PADDING_ID = 0

# The file in which a command may leave measurements for the report: a list of {"value": …, "label": …}.
MEASUREMENTS = "measurements.json"

# --- Reports and manifests -----------------------------------------------------------------------

# `damaged` is the outcome of `verify`; a stage that fails raises.
Outcome = Literal["done", "unchanged", "incomplete", "damaged"]
_NOT_NEGATIVE = {"low": 0}  # read by `pipeline.core.parsing`


@dataclass(frozen=True, kw_only=True)
class StageReport:
    """The result of a stage; `--json` prints it as one line. `next` are lines that say what to do next."""

    stage: str
    outcome: Outcome
    counts: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    outputs: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    next: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """A file of a stage's folder, as listed in its manifest."""

    path: str
    bytes: int = field(metadata=_NOT_NEGATIVE)
    sha256: str
    rows: int | None = field(default=None, metadata=_NOT_NEGATIVE)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The last file that a stage writes. A folder without it is unfinished.

    `config` is the resolved config. `inputs` holds the `storage.input_digest` of each folder that this one
    was made from, by its path in the workspace (`raw`, `dedupe`, `codes/demo-0123456789ab`), and the sha256
    of outside files by name. `counts` obey the count law of the contract.
    """

    contract: str
    version: int
    config: Mapping[str, Any]
    inputs: Mapping[str, str]
    counts: Mapping[str, int] = field(metadata=_NOT_NEGATIVE)
    files: tuple[FileEntry, ...]
    details: Mapping[str, Any] = field(default_factory=dict)


# --- Folders -------------------------------------------------------------------------------------


class CountLaw(NamedTuple):
    """Rows in = the sum of the outcomes: names of counts in a manifest.

    `further` is a count that is added to the total; a manifest without it counts as 0.
    """

    total: str
    parts: tuple[str, ...]
    further: str | None = None


@dataclass(frozen=True, kw_only=True)
class Contract:
    """A kind of folder, declared by the stage that writes it.

    `version` is raised when a reader of the old files would misread the new ones; versions from `oldest_read`
    on can still be read. `maker` is the command that writes the folder. `place` is a glob pattern below the
    workspace. `own_files` is a regular expression for the paths that the stage writes: it identifies our
    files in an unfinished folder, while a finished one lists them in its manifest. `count_law` is the rule
    for counts that `verify` checks. `trained_once` marks folders that are trained once and then used
    unchanged, even if their inputs grow. `shared` marks folders that are kept only for those that were made
    with them: `pipeline clean` lists them when nothing uses them any more. `name_levels` is how many names,
    separated by `/`, a folder below `place` may have. `earlier_mark` is a file that identifies an unfinished
    folder of a version before 0.1.0.
    """

    name: str
    version: int
    oldest_read: int | None = None
    maker: str
    place: str
    own_files: str
    count_law: CountLaw | None = None
    trained_once: bool = False
    shared: bool = False
    name_levels: int = 1
    earlier_mark: str | None = None

    @property
    def top(self) -> str:
        """The top-level folder of the workspace for this contract."""
        return self.place.split("/")[0]

    def reads(self, version: int) -> bool:
        """Whether folders of this version can be read."""
        return (self.oldest_read or self.version) <= version <= self.version

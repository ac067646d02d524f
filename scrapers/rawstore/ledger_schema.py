"""The tables of the ledger, and the view `items` that readers see. Pure."""

from __future__ import annotations

from pipeline.core.contracts import LEDGER_ITEMS, URL_STATES

# 2: several captions per URL, images without a rank, `extra`. 3: the state hash_mismatch; bytes that stay in
# the user's own files. 4: images that were resized when they arrived, with both hashes.
# Earlier versions are read as well.
LEDGER_VERSION = 4
READABLE_VERSIONS = (1, 2, 3, 4)
STATE_NUMBER: dict[str, int] = {name: number for number, name in enumerate(URL_STATES)}

TABLES = """
CREATE TABLE meta(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE forms(
  id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, plan INTEGER NOT NULL, section TEXT NOT NULL,
  caption TEXT NOT NULL, masked INTEGER NOT NULL, num_ranks INTEGER NOT NULL,
  prefix TEXT NOT NULL, suffix TEXT, rank INTEGER, extra TEXT);
CREATE TABLE urls(
  form INTEGER NOT NULL, rank INTEGER NOT NULL, state INTEGER NOT NULL, status_code INTEGER,
  reason TEXT, attempts INTEGER NOT NULL, etag TEXT, last_modified TEXT, final_url TEXT,
  sha256 BLOB, bytes INTEGER, segment INTEGER, offset INTEGER, version INTEGER NOT NULL,
  first_time INTEGER NOT NULL, last_time INTEGER NOT NULL, evidence TEXT, original_sha256 BLOB,
  PRIMARY KEY(form, rank)) WITHOUT ROWID;
CREATE TABLE versions(
  form INTEGER NOT NULL, rank INTEGER NOT NULL, version INTEGER NOT NULL, etag TEXT,
  last_modified TEXT, sha256 BLOB, bytes INTEGER, segment INTEGER, offset INTEGER, original_sha256 BLOB,
  PRIMARY KEY(form, rank, version)) WITHOUT ROWID;
CREATE TABLE segments(number INTEGER PRIMARY KEY, bytes INTEGER NOT NULL, sha256 TEXT);
"""

# Images that count as there, although the last refreshes missed them.
ABSENCES = """
CREATE TABLE IF NOT EXISTS absences(
  form INTEGER NOT NULL, rank INTEGER NOT NULL, refreshes INTEGER NOT NULL,
  PRIMARY KEY(form, rank)) WITHOUT ROWID
"""

# Captions of a form other than the one in its row.
CAPTIONS = """
CREATE TABLE IF NOT EXISTS captions(
  form INTEGER NOT NULL, caption TEXT NOT NULL, PRIMARY KEY(form, caption)) WITHOUT ROWID
"""

# Files of the user's that hold images where they are: a `segment` of -n means file n. `path` is absolute or
# an address of fsspec; `mtime` is in nanoseconds.
FILES = """
CREATE TABLE IF NOT EXISTS files(
  number INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, bytes INTEGER NOT NULL, mtime INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS urls_in_files ON urls(segment) WHERE segment < 0;
"""

# Requests that got a response, by latency (`pipeline.core.latencies`): by minute over all hosts, and by host,
# as in the URL, over all time.
LATENCIES = """
CREATE TABLE IF NOT EXISTS latencies(
  minute INTEGER NOT NULL, step INTEGER NOT NULL, requests INTEGER NOT NULL,
  PRIMARY KEY(minute, step)) WITHOUT ROWID
"""
HOST_LATENCIES = """
CREATE TABLE IF NOT EXISTS host_latencies(
  host TEXT NOT NULL, step INTEGER NOT NULL, requests INTEGER NOT NULL,
  PRIMARY KEY(host, step)) WITHOUT ROWID
"""

# Columns that earlier ledgers lack: (table, column, type).
ADDED_COLUMNS = (
    ("urls", "evidence", "TEXT"),
    ("forms", "rank", "INTEGER"),
    ("forms", "extra", "TEXT"),
    ("urls", "original_sha256", "BLOB"),
    ("versions", "original_sha256", "BLOB"),
)

_STATE_CASE = "CASE u.state " + " ".join(
    f"WHEN {number} THEN '{name}'" for name, number in STATE_NUMBER.items()
)
_ITEM_EXPRESSIONS: dict[str, str] = {
    "url": "CASE WHEN f.suffix IS NULL THEN f.prefix ELSE f.prefix || u.rank || f.suffix END",
    "key": "f.key || printf('-%02d', u.rank) || CASE WHEN u.version > 1 THEN '-v' || u.version ELSE '' END",
    "source": "(SELECT value FROM meta WHERE name = 'source')",
    "section": "f.section",
    "caption": "f.caption",
    # The rank is in the URL, or given by the source, or there is none.
    "rank": "CASE WHEN f.suffix IS NULL THEN f.rank ELSE u.rank END",
    "masked": "f.masked",
    "state": _STATE_CASE + " END",
    "sha256": "lower(hex(u.sha256))",
    "original_sha256": "CASE WHEN u.sha256 NOT NULL THEN lower(hex(u.original_sha256)) END",
    "segment": "CASE WHEN u.segment < 0 THEN (SELECT x.path FROM files x WHERE x.number = -u.segment)\n"
    "    ELSE printf('%05d.tar', u.segment) END",
    "captions": "CASE WHEN EXISTS(SELECT 1 FROM captions c WHERE c.form = f.id) THEN (\n"
    "    SELECT json_group_array(caption) FROM (SELECT f.caption AS caption UNION ALL\n"
    "      SELECT * FROM (SELECT caption FROM captions c WHERE c.form = f.id ORDER BY caption))) END",
    "extra": "f.extra",
    "first_time": "strftime('%Y-%m-%dT%H:%M:%SZ', u.first_time, 'unixepoch')",
    "last_time": "strftime('%Y-%m-%dT%H:%M:%SZ', u.last_time, 'unixepoch')",
}
_NULL_WITHOUT_BYTES = ("sha256", "segment", "original_sha256")


def items_view() -> str:
    """The view for readers, with the columns of the contract."""
    columns = []
    for column in LEDGER_ITEMS:
        expression = _ITEM_EXPRESSIONS.get(column.name, f"u.{column.name}")
        if column.name in _NULL_WITHOUT_BYTES:
            expression = f"CASE WHEN u.{column.name} IS NULL THEN NULL ELSE {expression} END"
        columns.append(f'{expression} AS "{column.name}"')
    listed = ",\n  ".join(columns)
    return f"CREATE VIEW items AS SELECT\n  {listed}\nFROM urls u JOIN forms f ON f.id = u.form"

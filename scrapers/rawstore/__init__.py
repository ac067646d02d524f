"""The raw store: the ledger (SQLite), segments of bytes, repair."""

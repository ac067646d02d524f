"""What keeps: the ledger (SQLite), segments of bytes, export, repair."""

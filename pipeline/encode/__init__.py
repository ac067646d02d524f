"""Kept images → codes, once."""

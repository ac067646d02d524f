"""The same captions from a web archive."""

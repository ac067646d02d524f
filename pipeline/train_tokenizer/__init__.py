"""Captions → a byte-pair tokenizer."""

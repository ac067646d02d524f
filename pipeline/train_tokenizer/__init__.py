"""Caption table → a byte-pair tokenizer of its own."""

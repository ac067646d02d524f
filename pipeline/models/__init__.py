"""What needs torch: the DALL·E transformer, image codecs, tokenizers, checkpoint formats."""

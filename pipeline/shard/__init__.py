"""Kept images + codes + token ids → WebDataset shards."""

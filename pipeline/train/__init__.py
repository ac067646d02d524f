"""Shards → checkpoints: training a DALL·E."""

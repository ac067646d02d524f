"""Checkpoint formats: our own, dalle-pytorch's and DeepSpeed's."""

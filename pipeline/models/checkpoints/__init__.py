"""Checkpoint formats of a DALL·E: ours, and those of DALLE-pytorch. Layer 3."""

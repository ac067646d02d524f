"""Checkpoint formats of a DALL·E: ours, and those of DALLE-pytorch. Floor 3."""

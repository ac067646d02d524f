"""Checkpoint → images: drawing pictures from prompts."""

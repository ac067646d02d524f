"""Checkpoint → images: sampling from prompts."""

"""Kept images → a small image codec."""

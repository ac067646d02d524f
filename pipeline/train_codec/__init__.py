"""Kept images → a small image codec of their own."""

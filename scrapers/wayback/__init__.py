"""Fetching from a web archive instead of the site."""

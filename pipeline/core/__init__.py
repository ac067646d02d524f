"""Shared by all stages: errors, contracts, options, files, ownership, locks, decoding."""

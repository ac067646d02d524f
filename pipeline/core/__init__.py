"""The foundation of every stage: errors, contracts, options, files, ownership, locks, decoding."""

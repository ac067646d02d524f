"""What every stage stands on: errors, contracts, options, files, ownership, locks, decoding."""

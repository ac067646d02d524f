"""The shard format: plain ustar files, a table of offsets beside each, an index, a reader."""

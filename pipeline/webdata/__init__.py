"""The shard format: plain ustar files of samples, a table of offsets beside each, an index, a reader."""

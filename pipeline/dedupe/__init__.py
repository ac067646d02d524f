"""dedupe: from the raw store to tables of what is kept, what is not and why, and which captions."""

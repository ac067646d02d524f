"""Generation for several clients at once: a queue, batches across requests, models loaded on demand."""

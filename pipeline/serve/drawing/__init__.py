"""Drawing for several clients at once: a queue, batches across requests, models loaded as they are needed."""

"""Images scaled down when they arrive: the rule, one image by it, and the worker processes."""

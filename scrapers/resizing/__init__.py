"""Scaling images down on arrival: the rules, resizing one image, and the worker processes."""

"""dalle-pipeline: an image–caption dataset from the web to a trained text-to-image transformer."""

__version__ = "0.1.0"

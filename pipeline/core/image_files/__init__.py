"""The outer structure of image files: chunks, segments, blocks and boxes, without decoding. Core layer.

Pure: bytes in, positions out, no third-party package, so that the crawl can use it. Broken files end a
walk early; nothing here raises for what a file holds.
"""

"""The structure of image files (chunks, segments, blocks and boxes), without decoding.

Pure: bytes in, positions out, without third-party packages, so that the crawl can use it. A walk through a
broken file ends early; nothing here raises because of a file's content.
"""

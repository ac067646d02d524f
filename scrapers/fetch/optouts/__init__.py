"""Every public opt-out signal: in headers, well-known files, pages and image metadata.

`signals` lists them all with their specifications. The other modules are pure and read one place each:
headers, a page's <meta>, the TDMRep file, the bytes of an image, the user's own list.
"""

"""Every public opt-out signal, read from its place.

`signals` lists them all with their specifications. The other modules are pure and read one place each:
headers, a page's <meta>, the TDMRep file, the bytes of an image, the user's own list.
"""

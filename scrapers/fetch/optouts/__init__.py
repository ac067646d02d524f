"""Who does not want to be used: every public opt-out signal, read from where it stands.

`signals` lists them all, with their specifications. The other modules are pure and read one place each:
headers, a page's <meta>, the TDMRep file, the bytes of an image, a list of the user's.
"""

"""The DALL·E blog post of 2021: page → captions → URLs."""

"""A mock server for the blog and its CDN: its pages, and images drawn from the captions."""

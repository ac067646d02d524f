"""A local stand-in for the blog and its CDN: its pages and its pictures, drawn from the captions."""

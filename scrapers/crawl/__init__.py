"""The crawl: which URLs to request, when, and what a response means."""

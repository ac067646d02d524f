"""What decides: which URLs to ask for, when, and what an answer means."""

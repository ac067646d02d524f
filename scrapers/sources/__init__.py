"""Where captions and URLs come from: a module or package for each source."""

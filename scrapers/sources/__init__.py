"""Sources of captions and URLs: a module or package for each."""

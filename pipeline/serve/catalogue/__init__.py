"""The images of a workspace in memory: compact columns, clusters, and a search index of the captions."""

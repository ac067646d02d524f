"""Sources whose images are already on disk: index and hash them, record what is gone."""

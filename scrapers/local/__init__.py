"""Sources whose images are on disk already: index, hash, and note what is gone."""

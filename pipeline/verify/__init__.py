"""Whether a workspace is what its manifests say; repairs what is damaged."""

"""`pipeline verify`: prove that a workspace is what its manifests say."""

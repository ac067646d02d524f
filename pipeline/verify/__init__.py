"""Check whether a workspace matches its manifests, and repair damage."""

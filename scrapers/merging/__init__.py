"""Several workspaces → one: ledgers merged by URL, segments linked or copied."""

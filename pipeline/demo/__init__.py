"""`pipeline demo` and the mock server that it scrapes."""

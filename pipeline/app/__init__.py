"""The command line: options, the run of all stages, status, records, metrics."""

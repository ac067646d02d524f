"""`pipeline doctor`: what this machine has for each part of the pipeline, and what is missing or broken."""

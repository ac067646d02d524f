"""A local web server over a workspace: pages to browse it, and APIs that generate images."""

"""The HTML report of a workspace, with images and plots."""

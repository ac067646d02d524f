"""The APIs that generate images: dalle-service's, OpenAI's, and that of the page."""

"""The APIs that generate images: dalle-service's, OpenAI's, and the page's own."""

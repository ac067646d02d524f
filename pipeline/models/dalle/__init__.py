"""The DALL·E transformer: configuration, layers, attention, losses, sampling."""

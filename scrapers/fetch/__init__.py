"""HTTP: connections of our own or aiohttp's, robots.txt, opt-outs, pace."""

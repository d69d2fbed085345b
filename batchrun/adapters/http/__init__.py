"""HTTP with aiohttp: exchanges, connections, keys, TLS."""

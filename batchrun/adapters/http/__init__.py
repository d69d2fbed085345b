"""HTTP by aiohttp: exchanges, connections, keys, TLS."""

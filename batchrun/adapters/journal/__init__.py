"""Makes outcomes durable: the logs of shards, the state file, notes of requests in flight."""

"""What makes an outcome durable: the logs of shards, the state file, notes of requests on their
way.
"""

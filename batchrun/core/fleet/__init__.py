"""A fleet: several processes that work on one run directory, and how they share its shards."""

"""``batchrun compare``: two runs over the same rows, for people and for programs."""

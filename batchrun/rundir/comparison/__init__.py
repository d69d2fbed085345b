"""Two runs over the same rows, paired: what changed, by how much, and whether a gate allows it."""

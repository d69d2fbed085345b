"""What ``batchrun init`` writes: a config and rows to begin with, or those of another tool."""

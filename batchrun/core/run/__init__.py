"""The run as a whole: shards, totals, the summary, changes between sessions."""

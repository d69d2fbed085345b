"""Where a run directory lies: a disk or an object store."""

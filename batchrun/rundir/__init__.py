"""The life of a run directory: opening, claiming, comparing, repairing and resuming it."""

"""Reading a run directory, or watching a run."""

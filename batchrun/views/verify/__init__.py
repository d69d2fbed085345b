"""``batchrun verify``: a run directory proved from its files, by code that no writer shares."""

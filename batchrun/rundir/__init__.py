"""The life of a run directory: opened, claimed, compared, repaired, taken up again."""

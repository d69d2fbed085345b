"""Scores, metrics and gates in the life of a run directory."""

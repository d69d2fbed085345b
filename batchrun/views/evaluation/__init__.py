"""Scores, metrics and gates as people read them, and questions to the files of a run."""

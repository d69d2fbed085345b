"""The judges of a run directory: what they are asked, and their progress."""

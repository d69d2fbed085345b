"""The judges of a run directory: what they are asked, and how far they are."""

"""The commands that say how good answers are, and what a run is compared with."""

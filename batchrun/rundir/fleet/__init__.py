"""A run directory that several processes work on: launched, joined, and folded (docs/adr/0055)."""

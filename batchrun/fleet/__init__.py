"""Launchers of fleets: processes that work on one run directory together."""

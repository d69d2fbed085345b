"""What a run is told: the table of settings, their values, endpoints and providers, and how they
differ between runs.
"""

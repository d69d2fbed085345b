"""What the simulated model writes."""

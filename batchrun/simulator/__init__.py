"""A simulated OpenAI-compatible endpoint, for demonstrations, tests and load work."""

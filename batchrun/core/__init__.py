"""Pure decisions: no clock, no randomness, no environment, no disk; they come in as arguments."""

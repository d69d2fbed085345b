"""Flags of the commands: their help in groups, their completion, and what others call them."""

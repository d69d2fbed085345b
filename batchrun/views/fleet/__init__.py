"""A run that several processes do together: its status, its files, and what changes it."""

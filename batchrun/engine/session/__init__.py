"""The session as a whole: its stop switch, its counts, its money, how many rows are open."""

"""Rows that are conversations: their turns, one exchange after the other."""

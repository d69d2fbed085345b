"""Replies that come in pieces: events, and how they become one completion."""

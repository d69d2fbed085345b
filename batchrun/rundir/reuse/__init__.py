"""Answers taken from other run directories."""

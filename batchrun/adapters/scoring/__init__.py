"""Scores and metrics by SQL: DuckDB, locked to the tables that it is given, and Python scorers."""

"""Scores and metrics by SQL: DuckDB, which can only read the given tables, and Python scorers."""

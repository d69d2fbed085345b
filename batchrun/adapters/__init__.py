"""The outside world: files, SQLite, Parquet and HTTP, each behind a seam of ``batchrun.ports``."""

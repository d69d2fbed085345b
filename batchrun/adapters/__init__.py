"""The outside world: files, SQLite, Parquet and HTTP, each behind a protocol of ``ports``."""

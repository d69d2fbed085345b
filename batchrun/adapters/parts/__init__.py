"""The Parquet files of a shard: schema, writing, publishing, reading an older one again."""

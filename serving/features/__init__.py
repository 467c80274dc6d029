"""The feature folder: Parquet shards and a manifest, written and read."""

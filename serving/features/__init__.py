"""Feature folders: the embeddings of a source in Parquet files, for any program to read.

`shards` is the specification and the writer, `reader` the reader; `manifest`, `tables` and `arrays`
are the three kinds of file.
"""

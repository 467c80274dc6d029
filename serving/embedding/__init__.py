"""Items of a source in, embeddings or refusals out, in order."""

"""What one service runs on: the encoder behind its batcher, decode threads, the collection."""

"""Found by measuring before a run: batch size, learning rate, memory."""

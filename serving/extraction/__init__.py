"""The batch job: an encoder and a source in, a feature folder out, resumable and exactly once."""

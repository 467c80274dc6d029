"""An encoder, run or feature folder in, scores of the evaluation protocols out."""

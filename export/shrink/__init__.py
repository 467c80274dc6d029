"""An encoder file in, a smaller or faster one out: int8, fp16, fewer dimensions."""

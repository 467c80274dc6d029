"""An encoder file in, a verdict out: does it compute what it was made from?"""

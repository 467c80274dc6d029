"""Does an encoder file compute what it was made from?

In: an encoder file, and the run or another encoder file to compare it with. Out: a `Verification`,
checks with their figures and the speed.
"""

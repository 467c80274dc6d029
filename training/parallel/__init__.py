"""Several processes as one run.

In: torchrun's environment. Out: ranks that exchange tensors and agree between steps, and batch norm
over the views of all of them.
"""

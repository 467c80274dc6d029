"""Learn from another encoder (the teacher): its embeddings of the training images, and the loss.

In: a teacher and the images. Out: what a student's embeddings should be, float32 [N,E], and how far
from it they are. SimCLR v2 (Chen et al. 2020b, section 2.3) distills as its third step, on images
without labels as here.
"""

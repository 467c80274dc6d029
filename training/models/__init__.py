"""Networks: images in, features h (encoder) and projections z (projection head) out."""

"""A request's body in, checked images and fields out; errors as HTTP answers."""

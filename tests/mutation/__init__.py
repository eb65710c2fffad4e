"""Mutants: the product with one thing changed, which a test must notice; `./run prove`."""

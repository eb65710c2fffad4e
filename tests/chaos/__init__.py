"""Faults on real processes under load, and two ledgers of what became of everything accepted.

One at the client: what was accepted, what was seen of it, and when. One at the model servers: which
prompt ran, when and how often. Neither asks the product.
"""

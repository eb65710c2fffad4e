"""Deterministic simulation: workers, APIs and a sweeper on a seeded loop, in virtual time.

What runs is the product's own api, execution, recovery, tiers and store code, and the real Lua on a
real Valkey. Replaced are the socket to the store (`store`), Celery and its broker (`broker`), the
model servers (`upstream`), threads and time (`loop`). A seed decides the order of everything, what
callers ask, and what breaks (`faults`). When all is over the `ledger` is checked.
"""

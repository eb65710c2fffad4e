"""Whatever comes in: generated requests, raw bytes and mutated lines against real processes.

Each kind has a seed; `./run prove api lines` runs the long ones, the tests run short ones.
"""

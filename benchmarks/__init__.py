"""Measurements, side by side in one run, each with its budgets: `./run bench [NAME …]`."""

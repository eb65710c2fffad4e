"""Redis, the truth: every transition one script. Nobody else speaks to it."""

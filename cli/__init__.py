"""The `fallthrough` command, and the embedded stack that it starts."""

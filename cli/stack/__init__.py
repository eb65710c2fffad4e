"""The embedded stack: every part of the product as a process of one supervisor."""

"""The commands, by what they are about: they read options, and print."""

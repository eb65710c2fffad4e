"""What tests start: real servers of ours, and a model server that fails on cue."""

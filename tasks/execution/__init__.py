"""What a task does with the slice, the unit or the phase that it was given."""

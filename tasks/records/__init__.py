"""What a job, a batch and a file are, and what a try comes to. Pure: no I/O."""

"""Celery's transport: ids go out, nothing else."""

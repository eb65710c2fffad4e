"""What happens to a job: settings, store, chain, tier tasks."""

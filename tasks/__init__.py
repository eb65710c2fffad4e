"""What happens to a job. Each room stands only on those below it.

celery          the entry of `celery -A tasks …`
execution/      what a task does with the slice, unit or phase that it was given
submit          how a job, or a batch, enters: recorded first, then published
recovery/       leases and the sweeper: nothing is lost
app             the Celery app: queues, task names
tiers/          how one job is answered at one tier
broker/         Celery's transport and the publisher: ids go out, nothing else
store/          Redis, the truth: every transition one script; nobody else speaks to it
jsonl/          a batch's lines as OpenAI writes them (pure)
telemetry/      what a process tells of itself
keys            API keys
settings        what an operator can set
records/        what a job, a batch, a file is; tables of their transitions (pure)
storage         bytes under names: a folder, or an object store
group_commit    what waits shares the next trip
json_faults     what is wrong with JSON that was sent to us (pure)
foreign         what bytes are that are no text in UTF-8 (pure)
hosts           hosts, as settings and Host headers name them (pure)
errors          what can go wrong
"""

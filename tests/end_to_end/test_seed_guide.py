"""The quick start guide that this project began with, from top to bottom, as it was printed.

What the guide forgets is supplied (imports, an event loop, a service to call), and its addresses
lead to servers of the test's own. docs/seed-coverage.md says where each part of it is served.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import helm_python as helm
import httpx
import pytest
import redis
import yaml
from harness.waiting import free_port, wait_until
from prometheus_client.parser import text_string_to_metric_families

from circuit_breaker import (
    CircuitBreakerConfig,
    CircuitBreakerError,
    CircuitState,
    RedisStore,
    configure_default_store,
    get_circuit_breaker,
)
from fallback_chain import FallbackChain

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "ai-platform"

# Basic usage
BREAKER = """
from circuit_breaker import get_circuit_breaker, CircuitBreakerConfig

# Create a circuit breaker
breaker = get_circuit_breaker(
    "my_service",
    CircuitBreakerConfig(
        failure_threshold=3,      # Open after 3 failures
        timeout_seconds=5.0,      # 5 second timeout
        recovery_timeout_seconds=30.0  # Try again after 30s
    )
)

# Wrap async function calls
async def call_service():
    response = await httpx.get("http://my-service/api")
    return response.json()

try:
    result = await breaker.call(call_service)
    print(f"Success: {result}")
except CircuitBreakerError:
    print("Circuit breaker is open, service unavailable")
except Exception as e:
    print(f"Service call failed: {e}")
"""
CHAIN = """
from fallback_chain import FallbackChain
import redis

# Initialize
redis_client = redis.Redis(host='localhost', port=6379)
chain = FallbackChain(
    max_gpu_endpoint="http://localhost:8080",
    ollama_cpu_endpoint="http://localhost:11434",
    redis_client=redis_client
)

# Generate with automatic fallback
result = await chain.generate(
    prompt="Explain quantum computing",
    max_tokens=200
)

print(f"Response: {result['text']}")
print(f"Used tier: {result['tier_used']}")
"""

# View statistics
BREAKERS_LINE = "curl http://localhost:8000/circuit-breakers | jq"
METRICS_LINE = "curl http://localhost:8000/metrics | jq '.metrics'"

# Kubernetes deployment
HELM = r"""
helm upgrade ai-platform ./helm/ai-platform \
  -f helm/ai-platform/values.yaml \
  -f helm/ai-platform/values-health-probes.yaml \
  --namespace ai-platform \
  --create-namespace
"""
KUBECTL = r"""
kubectl get pods -n ai-platform
kubectl describe pod api-server-xxx -n ai-platform | grep -A 10 "Liveness\|Readiness"
kubectl logs -f api-server-xxx -n ai-platform
kubectl delete pod api-server-xxx -n ai-platform
kubectl logs api-server-xxx -n ai-platform --previous
"""

# Docker Compose
COMPOSE = """
docker compose up -d
docker compose logs -f api-server
docker compose stop max-serve-llama
"""
HEALTH_LINES = """
curl http://localhost:8000/health
curl http://localhost:8000/circuit-breakers
"""
REQUEST = """
curl -X POST http://localhost:8000/v1/chat/completions \\
  -H "Content-Type: application/json" \\
  -d '{
    "messages": [{"role": "user", "content": "Hello"}],
    "max_tokens": 50
  }'
"""
WHICH_TIER = "curl http://localhost:8000/metrics | jq"

# Configuration options
BREAKER_CONFIG = """
CircuitBreakerConfig(
    failure_threshold=3,        # Failures before opening (default: 3)
    timeout_seconds=5.0,        # Request timeout (default: 5.0)
    recovery_timeout_seconds=30.0,  # Recovery time (default: 30.0)
    success_threshold=2         # Successes to close (default: 2)
)
"""
CHAIN_CONFIG = """
FallbackChain(
    max_gpu_endpoint="http://max-serve:8080",
    ollama_cpu_endpoint="http://ollama:11434",  # Optional
    redis_client=redis.Redis(...),              # Optional
    degraded_message="Service temporarily unavailable"
)
"""
PROBES = """
livenessProbe:
  httpGet:
    path: /health
    port: 8000
  initialDelaySeconds: 30
  periodSeconds: 30
  timeoutSeconds: 10
  failureThreshold: 3

readinessProbe:
  httpGet:
    path: /health
    port: 8000
  initialDelaySeconds: 20
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
"""

# Testing
UNIT_TEST = """
import pytest
from circuit_breaker import CircuitBreaker, CircuitBreakerConfig, CircuitState

@pytest.mark.asyncio
async def test_circuit_breaker_opens():
    breaker = CircuitBreaker("test", CircuitBreakerConfig(
        failure_threshold=2,
        timeout_seconds=1.0
    ))

    async def failing_call():
        raise Exception("Service down")

    # First 2 failures
    for _ in range(2):
        try:
            await breaker.call(failing_call)
        except:
            pass

    # Circuit should be OPEN
    assert breaker.state == CircuitState.OPEN
"""
INTEGRATION_TEST = """
@pytest.mark.asyncio
async def test_fallback_chain():
    chain = FallbackChain(
        max_gpu_endpoint="http://fake-endpoint",
        degraded_message="Test degraded"
    )

    result = await chain.generate("test prompt")

    # Should fall back to degraded message
    assert result['tier_used'] == 'degraded'
    assert result['text'] == "Test degraded"
"""
LOAD_TEST = "python load_test.py --requests 1000 --concurrency 50"

# Monitoring
QUERIES = """
# Circuit breaker state
circuit_breaker_state{name="max_gpu"}

# Request rate
rate(circuit_breaker_requests_total[5m])

# Failure rate
rate(circuit_breaker_failures_total[5m]) / rate(circuit_breaker_requests_total[5m])

# Rejection rate (circuit open)
rate(circuit_breaker_rejections_total[5m])
"""
DASHBOARD = "kubectl apply -f configs/grafana/dashboards/circuit-breaker-dashboard.json"

# Troubleshooting
STATE_LINE = "curl http://localhost:8000/circuit-breakers | jq '.circuit_breakers.max_gpu'"
RESET = """
from circuit_breaker import get_circuit_breaker
breaker = get_circuit_breaker("max_gpu")
breaker.reset()
"""
LATENCY_LINE = "curl http://localhost:8000/metrics | jq '.metrics.p95_latency_ms'"

JQ = """#!{python}
import json, sys
found = json.load(sys.stdin)
for name in (sys.argv[1] if sys.argv[1:] else ".").strip(".").split("."):
    found = found[name] if name else found
print(json.dumps(found, indent=2))
"""


async def execute(snippet, places=None, **supplied):
    """Run a snippet of the guide, its addresses led to places; return its names."""
    for printed, ours in (places or {}).items():
        assert printed in snippet
        snippet = snippet.replace(printed, ours)
    names = {**supplied}
    code = compile(snippet, "guide", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, names)  # noqa: S307 - the guide's own lines
    if inspect.isawaitable(result):
        await result
    return names


def value_of(snippet, places=None, **supplied):
    for printed, ours in (places or {}).items():
        snippet = snippet.replace(printed, ours)
    return eval(snippet.strip(), supplied)  # noqa: S307 - as above


@pytest.fixture
def shell(tmp_path):
    """Run shell lines of the guide against an API; return what they print."""
    tools = tmp_path / "tools"
    tools.mkdir()
    if shutil.which("jq") is None:
        stand_in = tools / "jq"
        stand_in.write_text(JQ.format(python=sys.executable))
        stand_in.chmod(0o755)

    def run(lines, api, options="-sS --fail-with-body"):
        lines = lines.replace("http://localhost:8000", api.url)
        done = subprocess.run(
            ["/bin/bash", "-e", "-o", "pipefail", "-c", lines.replace("curl ", f"curl {options} ")],
            env={"PATH": f"{os.environ['PATH']}:{tools}"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def stack(fleet):
    """An API and one worker, with both model servers there."""
    api, worker = fleet.start(fleet.api(), fleet.worker())
    return SimpleNamespace(api=api, worker=worker)


@pytest.fixture
def ask(stack):
    with httpx.Client(base_url=stack.api.url, timeout=30) as client:

        def send(prompt):
            body = {"messages": [{"role": "user", "content": prompt}]}
            return client.post("/v1/chat/completions", json=body)

        yield send


# Quick setup


def test_the_breaker_needs_nothing_but_the_standard_library():
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import circuit_breaker"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True, timeout=60)


async def test_the_breaker_snippet_succeeds_then_fails_then_finds_it_open(gpu, capsys):
    places = {"http://my-service/api": f"{gpu.url}/v1/models"}
    async with httpx.AsyncClient() as client:
        supplied = {"httpx": client, "CircuitBreakerError": CircuitBreakerError}
        await execute(BREAKER, places, **supplied)
        assert capsys.readouterr().out == "Success: {'data': [{'id': 'gpu-model'}]}\n"
        gpu.vanish()
        for _ in range(3):
            await execute(BREAKER, places, **supplied)
        assert capsys.readouterr().out.count("Service call failed: ") == 3
        names = await execute(BREAKER, places, **supplied)
    assert capsys.readouterr().out == "Circuit breaker is open, service unavailable\n"
    assert names["breaker"].state is CircuitState.OPEN


async def test_the_chain_snippet_falls_back_tier_by_tier(gpu, cpu, valkey, capsys):
    places = {
        "localhost', port=6379": f"localhost', port={valkey.port}",
        "http://localhost:8080": gpu.url,
        "http://localhost:11434": cpu.url,
    }
    for tier, leaving in (("gpu", gpu), ("cpu", cpu), ("cache", None)):
        names = await execute(CHAIN, places)
        said = capsys.readouterr().out
        assert f"Used tier: {tier}\n" in said
        assert "model: Explain quantum computing\n" in said
        assert names["result"]["tier_used"] == tier
        await names["chain"].aclose()
        names["redis_client"].close()
        if leaving:
            leaving.vanish()
    assert gpu.calls[0].body["max_tokens"] == 200


def test_each_line_of_curl_answers(stack, shell, ask):
    assert ask("Hello").is_success
    for line in HEALTH_LINES.strip().splitlines():
        assert json.loads(shell(line, stack.api))
    breakers = json.loads(shell(BREAKERS_LINE, stack.api))["circuit_breakers"]
    assert {"max_gpu", "ollama_cpu", "redis_cache"} <= set(breakers)
    assert json.loads(shell(STATE_LINE, stack.api)) == breakers["max_gpu"]
    found = json.loads(shell(METRICS_LINE, stack.api))
    assert found["jobs"]["gpu"]["succeeded"] == 1
    assert float(shell(LATENCY_LINE, stack.api)) == found["p95_latency_ms"] > 0


# Kubernetes deployment


def rendered():
    """The manifests that the guide's command makes."""
    words = shlex.split(HELM)
    assert words[3] == "./helm/ai-platform"
    files = [ROOT / words[at + 1] for at, word in enumerate(words) if word == "-f"]
    assert files[0] == CHART / "values.yaml", "which Helm reads by itself"
    values = yaml.safe_load(files[1].read_text())
    found = helm.Chart.load(str(CHART)).render(values, name=words[2], namespace="ai-platform")
    texts = (text for name, text in found.items() if name.endswith(".yaml"))
    return [each for text in texts for each in yaml.safe_load_all(text) if each]


def api_pod():
    """The pod of the Deployment api-server, whose pods are the guide's api-server-xxx."""
    [found] = [
        each
        for each in rendered()
        if (each["kind"], each["metadata"]["name"]) == ("Deployment", "api-server")
    ]
    return found["spec"]["template"]["spec"]


def test_the_helm_command_renders_the_guides_probes():
    [container] = api_pod()["containers"]
    for name, probe in yaml.safe_load(PROBES).items():
        assert container[name] == probe


def test_the_kubectl_lines_name_a_pod_that_the_chart_makes():
    pods = set(re.findall(r"(\S+)-xxx", KUBECTL))
    names = {each["metadata"]["name"] for each in rendered() if each["kind"] == "Deployment"}
    assert pods == {"api-server"}
    assert pods <= names


# Docker Compose


def test_the_compose_lines_name_services_that_are_there():
    services = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())["services"]
    named = set(re.findall(r"(?:logs -f|stop) (\S+)", COMPOSE))
    assert named == {"api-server", "max-serve-llama"}
    assert named <= set(services)
    assert services["api-server"]["ports"] == ["127.0.0.1:${FALLTHROUGH_PORT:-8000}:8000"]


def test_the_fallback_test_with_the_gpu_server_stopped(stack, shell, gpu):
    gpu.vanish()  # docker compose stop max-serve-llama
    answer = json.loads(shell(REQUEST, stack.api))
    assert answer["choices"][0]["message"]["content"] == "cpu-model: Hello"
    found = json.loads(shell(WHICH_TIER, stack.api))
    assert found["metrics"]["jobs"] == {"cpu": {"succeeded": 1}}
    assert "x-fallthrough-tier: cpu" in shell(REQUEST, stack.api, "-sSi")


# Configuration options


def test_the_breakers_defaults_are_those_of_the_guide():
    config = value_of(BREAKER_CONFIG, CircuitBreakerConfig=CircuitBreakerConfig)
    assert config == CircuitBreakerConfig()


async def test_the_chain_takes_the_guides_options(valkey):
    nowhere = f"http://127.0.0.1:{free_port()}"
    places = {
        "http://max-serve:8080": nowhere,
        "http://ollama:11434": nowhere,
        "Redis(...)": f"Redis(port={valkey.port})",
    }
    chain = value_of(CHAIN_CONFIG, places, FallbackChain=FallbackChain, redis=redis)
    assert (await chain.generate("Hello"))["text"] == "Service temporarily unavailable"
    await chain.aclose()


# Common scenarios


def test_scenario_1_three_failures_open_the_breaker_and_then_nobody_asks(stack, shell, ask, gpu):
    gpu.mode = "500"
    for n in range(3):
        assert ask(f"question {n}").headers["x-fallthrough-tier"] == "cpu"
    assert json.loads(shell(STATE_LINE, stack.api))["state"] == "open"
    assert len(gpu.calls) == 3
    reply = ask("at once")
    job = httpx.get(f"{stack.api.url}/v1/jobs/{reply.headers['x-fallthrough-job-id']}").json()
    assert job["attempts"][0]["verdict"] == "rejected"
    assert len(gpu.calls) == 3


def test_scenario_2_the_cpus_answer_is_cached_and_the_cache_answers_alone(ask, gpu, cpu):
    gpu.vanish()
    for n in range(3):
        ask(f"opens {n}")
    answer = ask("Hello")
    assert answer.headers["x-fallthrough-tier"] == "cpu"
    cpu.vanish()
    again = wait_until(lambda: _from(ask("Hello"), "cache"))
    assert again.json()["choices"] == answer.json()["choices"]


def _from(reply, tier):
    return reply if reply.headers["x-fallthrough-tier"] == tier else None


def test_scenario_3_on_sigterm_running_requests_are_answered_and_both_exit_in_time(stack, gpu):
    gpu.delay = 0.5
    lines = REQUEST.replace("http://localhost:8000", stack.api.url).replace("curl ", "curl -sSi ")
    with subprocess.Popen(["/bin/bash", "-c", lines], stdout=subprocess.PIPE, text=True) as client:
        wait_until(lambda: gpu.running == 1)
        stack.worker.signal(signal.SIGTERM)
        stack.api.signal(signal.SIGTERM)
        said, _ = client.communicate(timeout=30)
    assert "x-fallthrough-tier: gpu" in said
    assert "gpu-model: Hello" in said
    assert (stack.worker.wait(30), stack.api.wait(30)) == (0, 0)


def test_a_pod_waits_5_seconds_and_is_given_30():
    pod = api_pod()
    [container] = pod["containers"]
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "5"]
    assert pod["terminationGracePeriodSeconds"] == 30


# Testing


def test_the_guides_tests_pass(tmp_path):
    nowhere = f"http://127.0.0.1:{free_port()}"
    imports = "from fallback_chain import FallbackChain\n"
    content = imports + UNIT_TEST + INTEGRATION_TEST.replace("http://fake-endpoint", nowhere)
    (tmp_path / "test_guide.py").write_text(content)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "test_guide.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "2 passed" in done.stdout, done.stdout


def test_the_load_test_answers_a_thousand_requests(stack, shell):
    lines = LOAD_TEST.replace("python", sys.executable, 1)
    done = subprocess.run(
        [*shlex.split(lines), "--url", stack.api.url],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "1000 of 1000 answered" in done.stdout, done.stderr
    assert "tiers    gpu 1000" in done.stdout
    assert "breakers did not change" in done.stdout


# Monitoring


def samples(process):
    accept = {"Accept": "text/plain;version=0.0.4"}
    text = httpx.get(f"{process.url}/metrics", headers=accept).text
    return [
        (sample.name, sample.labels)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


def test_every_metric_that_the_guide_asks_prometheus_for_is_exported(stack, ask, gpu):
    gpu.mode = "500"
    for n in range(4):
        ask(f"question {n}")
    exported = samples(stack.api) + samples(stack.worker)
    queries = "\n".join(line for line in QUERIES.splitlines() if not line.startswith("#"))
    asked = set(re.findall(r"circuit_breaker_\w+", queries))
    assert len(asked) == 4
    for name in asked:
        assert (name, {"name": "max_gpu"}) in exported, name


def test_the_dashboard_is_there_and_one_kubectl_apply_loads_it():
    path = ROOT / DASHBOARD.rsplit(maxsplit=1)[-1]
    assert json.loads(path.read_text())["panels"]
    kustomization = yaml.safe_load((path.parent / "kustomization.yaml").read_text())
    [generator] = kustomization["configMapGenerator"]
    assert generator["files"] == [path.name]
    assert kustomization["generatorOptions"]["labels"] == {"grafana_dashboard": "1"}


# Troubleshooting


async def test_a_reset_by_hand_closes_the_breaker_for_the_whole_fleet(
    stack, shell, ask, gpu, valkey
):
    gpu.mode = "500"
    for n in range(3):
        ask(f"question {n}")
    assert json.loads(shell(STATE_LINE, stack.api))["state"] == "open"
    gpu.mode = "ok"
    with valkey.client() as client:
        # Another program shares the fleet's breakers once it is told where they are.
        configure_default_store(RedisStore(client))
        await execute(RESET)
        assert get_circuit_breaker("max_gpu").state is CircuitState.CLOSED
    assert json.loads(shell(STATE_LINE, stack.api))["state"] == "closed"
    wait_until(lambda: _from(ask("back again"), "gpu"))

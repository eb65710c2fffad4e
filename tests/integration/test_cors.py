"""Pages of other sites, as their visitors' browsers let them call the API."""

from __future__ import annotations

import httpx
import pytest

from api.app import create_app
from tasks.settings import Settings

KEY = "ft-0123456789abcdef"
PAGE, OTHER = "https://chat.example", "https://evil.example"
CHAT = {"messages": [{"role": "user", "content": "Hi"}]}


def asking(origin, method="POST", headers="authorization,content-type,x-stainless-lang"):
    """What a browser asks before it lets a page call."""
    return {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": headers,
    }


def allows(reply):
    return reply.headers.get("access-control-allow-origin")


@pytest.fixture(scope="module")
def guarded(module_fleet):
    """An API with keys, which pages of one origin may call, and a worker."""
    settings = {"cors_origins": f"{PAGE}, http://localhost:3000", "api_keys": f"ann={KEY}"}
    settings["key_requests_per_minute"] = 1000
    api, _ = module_fleet.start(module_fleet.api(**settings), module_fleet.worker())
    with httpx.Client(base_url=api.url, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def for_any(module_fleet):
    """An API with keys, which every page may call."""
    api = module_fleet.api(cors_origins="*", api_keys=f"ann={KEY}").start()
    with httpx.Client(base_url=api.url, timeout=30) as client:
        yield client


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/jobs/job_0", "/nowhere"])
@pytest.mark.parametrize("origin", [PAGE, "http://localhost:3000"])
def test_a_browser_asks_without_a_key(guarded, path, origin):
    reply = guarded.options(path, headers=asking(origin))
    assert (reply.status_code, allows(reply)) == (200, origin)
    assert (
        reply.headers["access-control-allow-headers"]
        == asking(origin)["Access-Control-Request-Headers"]
    )
    assert {"GET", "POST", "DELETE"} <= {*reply.headers["access-control-allow-methods"].split(", ")}
    assert "Origin" in reply.headers["vary"]
    assert "x-request-id" in reply.headers


@pytest.mark.parametrize("headers", [asking(OTHER), asking("null"), asking(PAGE, "PUT")])
def test_who_is_not_named_is_refused_as_everywhere(guarded, headers):
    reply = guarded.options("/v1/jobs", headers=headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "unknown_origin")
    assert allows(reply) is None


def test_a_page_reads_the_answer_with_its_headers(guarded):
    headers = {"Origin": PAGE, "Authorization": f"Bearer {KEY}"}
    reply = guarded.post("/v1/chat/completions", json=CHAT, headers=headers)
    assert (reply.status_code, allows(reply)) == (200, PAGE)
    exposed = {*reply.headers["access-control-expose-headers"].lower().split(", ")}
    ours = [n for n in reply.headers if n.startswith(("x-fallthrough-", "x-request", "x-rate"))]
    assert len(ours) > 5
    assert exposed.issuperset(ours)
    assert {"retry-after", "retry-after-ms", "openai-poll-after-ms", "location"} <= exposed
    assert "Origin" in reply.headers["vary"]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"method": "GET", "url": "/v1/jobs"}, 401),
        ({"method": "GET", "url": "/v1/jobs", "headers": {"Authorization": f"Bearer {KEY}x"}}, 401),
        ({"method": "PUT", "url": "/v1/jobs", "headers": {"Authorization": f"Bearer {KEY}"}}, 405),
        (
            {
                "method": "POST",
                "url": "/v1/jobs",
                "headers": {"Authorization": f"Bearer {KEY}"},
                "content": b"{",
            },
            400,
        ),
    ],
)
def test_a_page_reads_why_it_was_refused(guarded, request_, status):
    headers = {**request_.get("headers", {}), "Origin": PAGE}
    reply = guarded.request(**{**request_, "headers": headers})
    assert (reply.status_code, allows(reply)) == (status, PAGE)


def test_another_page_reads_nothing(guarded):
    headers = {"Origin": OTHER, "Authorization": f"Bearer {KEY}"}
    assert allows(guarded.get("/v1/jobs", headers=headers)) is None


@pytest.mark.parametrize("origin", [PAGE, OTHER, "null"])
def test_any_page_is_any_and_none_is_let_have_credentials(for_any, guarded, origin):
    for reply in (
        for_any.options("/v1/jobs", headers=asking(origin)),
        for_any.get("/v1/jobs", headers={"Origin": origin, "Cookie": "a=b"}),
        for_any.get("/health", headers={"Origin": origin}),
    ):
        assert allows(reply) == "*"
        assert "access-control-allow-credentials" not in reply.headers
    reply = guarded.options("/v1/jobs", headers=asking(PAGE))
    assert "access-control-allow-credentials" not in reply.headers


def test_it_is_off_unless_it_is_set(fleet):
    api = fleet.api(api_keys=f"ann={KEY}").start()
    with httpx.Client(base_url=api.url) as client:
        assert client.options("/v1/jobs", headers=asking(PAGE)).status_code == 401
        for reply in (
            client.options("/v1/jobs", headers={**asking(PAGE), "Authorization": f"Bearer {KEY}"}),
            client.get("/health", headers={"Origin": PAGE}),
        ):
            assert not [name for name in reply.headers if name.startswith("access-control-")]


@pytest.mark.parametrize("origins", [PAGE, "*"])
def test_without_keys_a_page_that_is_named_may_change_things_under_our_own_name(fleet, origins):
    api = fleet.api(cors_origins=origins).start()
    with httpx.Client(base_url=api.url) as client:

        def post(origin, **headers):
            sent = {"Origin": origin, "Sec-Fetch-Site": "cross-site", **headers}
            return client.post("/v1/jobs", json={"prompt": "x"}, headers=sent)

        reply = post(PAGE)
        assert (reply.status_code, allows(reply)) == (202, origins)
        assert post(OTHER).status_code == (202 if origins == "*" else 403)
        renamed = post(PAGE, Host="evil.example")
        assert (renamed.status_code, renamed.json()["error"]["code"]) == (403, "unknown_host")
        alone = client.post(
            "/v1/jobs", json={"prompt": "x"}, headers={"Sec-Fetch-Site": "cross-site"}
        )
        assert (alone.status_code, alone.json()["error"]["code"]) == (403, "cross_site")


def test_every_header_that_a_route_tells_of_is_exposed():
    [cors, _] = create_app(Settings(cors_origins="*")).user_middleware
    middleware = cors.cls(None, *cors.args, **cors.kwargs)
    exposed = middleware.simple_headers["Access-Control-Expose-Headers"]
    assert {"x-fallthrough-fit", "x-fallthrough-cache-age"} <= {*exposed.split(", ")}

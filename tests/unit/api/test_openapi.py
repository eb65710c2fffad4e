"""The OpenAPI document says what the router serves."""

from __future__ import annotations

import json
import re
from collections import Counter
from urllib.parse import urljoin

import jsonschema_rs
import pytest
from starlette.staticfiles import StaticFiles

from api.app import PREFIX, create_app
from api.errors import ApiError
from api.openapi import PAGE, document
from api.routing import Description, Route, Undescribed
from api.schemas import Deadlines, jobs_of, submission_of
from fallback_chain import Endpoint
from tasks.settings import Settings


@pytest.fixture(scope="module")
def app():
    return create_app(Settings())


@pytest.fixture(scope="module")
def routes(app):
    return [route for route in app.routes if isinstance(route, Route)]


def test_every_route_is_one_of_ours_but_the_files_that_pages_load(app, routes):
    others = [route for route in app.routes if route not in routes]
    assert all(isinstance(route.app, StaticFiles) for route in others)


def test_no_route_is_there_twice(routes):
    assert set(Counter((route.method, route.path) for route in routes).values()) == {1}


def test_every_route_is_described_or_says_why_not(app, routes):
    described = {
        (route.method, route.path_format)
        for route in routes
        if isinstance(route.description, Description)
    }
    paths = document(app)["paths"]
    assert described == {(m.upper(), path) for path, methods in paths.items() for m in methods}
    for route in routes:
        if (route.method, route.path_format) not in described:
            assert isinstance(route.description, Undescribed), route.path


def test_each_route_under_the_prefix_has_a_twin_without_it_that_is_not_described_again(routes):
    twins = {(r.method, r.path) for r in routes if r.description is Undescribed.TWIN}
    prefixed = [r for r in routes if r.path.startswith(f"{PREFIX}/")]
    assert {(r.method, r.path.removeprefix(PREFIX)) for r in prefixed} == twins
    assert all(isinstance(r.description, Description) for r in prefixed)


@pytest.mark.parametrize("served", ["http://api.example/", "https://company.example/llm/"])
def test_the_api_is_where_its_document_is(app, served):
    (server,) = document(app)["servers"]
    assert urljoin(f"{served}openapi.json", server["url"]) == served
    urls = re.findall(r'(?:href|src|url)(?:=|: )"([^"]*)"', PAGE)
    assert "openapi.json" in urls
    for url in urls:
        assert urljoin(f"{served}docs", url).startswith((served, "data:")), url


def test_an_operation_has_the_parameters_of_its_query_and_its_path(app):
    poll = document(app)["paths"]["/v1/jobs/{id}"]["get"]
    parameters = [(p["in"], p["name"], p.get("required", False)) for p in poll["parameters"]]
    assert parameters == [("query", "wait", False), ("path", "id", True)]


@pytest.mark.parametrize(
    ("path", "name"), [("/v1/jobs", "status"), ("/v1/jobs", "tier"), ("/v1/batches", "status")]
)
@pytest.mark.parametrize(("word", "fits"), [("", True), ("other", False)])
def test_a_filter_that_a_form_sends_empty_fits(app, path, name, word, fits):
    parameters = document(app)["paths"][path]["get"]["parameters"]
    [schema] = [each["schema"] for each in parameters if each["name"] == name]
    whole = {**schema, "components": document(app)["components"]}
    assert jsonschema_rs.is_valid(whole, word) == fits


def test_every_reference_of_the_document_leads_to_a_schema(app):
    names = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document(app))))
    assert names == set(document(app)["components"]["schemas"]), "and no schema is left over"


@pytest.fixture(scope="module")
def operations(app):
    paths = document(app)["paths"]
    return {f"{m} {path}": o for path, methods in paths.items() for m, o in methods.items()}


def test_every_operation_says_each_status_that_any_may_answer(operations):
    """And none stands for all the others, or a status that nobody named would be as good."""
    for name, operation in operations.items():
        assert {"400", "401", "403", "408", "414", "429", "431", "503"} <= set(
            operation["responses"]
        ), name
        assert not {"default", "5XX"} & set(operation["responses"]), name
        # Of a job that three workers died with; of nothing else.
        waits = {f"post {endpoint}" for endpoint in Endpoint}
        assert ("500" in operation["responses"]) == (name in waits)
        assert ("413" in operation["responses"]) == ("requestBody" in operation)


def test_every_reply_is_described_whole(operations):
    for name, operation in operations.items():
        for status, response in operation["responses"].items():
            assert response["headers"]["x-request-id"]["required"], (name, status)
            for media_type, content in response["content"].items():
                assert content["schema"], (name, status, media_type)


@pytest.mark.parametrize(
    ("body", "fits"),
    [
        ({"prompt": "x"}, True),
        ({"prompt": "x", "messages": None}, True),
        ({"prompt": "x", "messages": [{"role": "user"}]}, False),
        ({"prompt": None}, False),
        ({}, False),
        ({"messages": [{"role": "user"}], "extra": 1}, True),
        ({"messages": [{"role": "user"}], "stream": True}, True),
        ({"messages": [{"role": "user"}], "stream": "yes"}, False),
        ({"requests": [{"prompt": "x"}]}, True),
        ({"requests": []}, False),
        ({"requests": [{}]}, False),
        ({"requests": [{"prompt": "x"}], "model": "m"}, False),
        ({"prompt": "x", "requests": []}, False),
        ({"prompt": "x", "requests": None}, False),
        ({"prompt": "x", "fallthrough": {"cache": "off"}}, False),
        ({"messages": [{"role": "user"}], "fallthrough": None}, False),
        ({"requests": [{"prompt": "x", "fallthrough": {}}]}, False),
    ],
)
def test_the_document_of_a_job_is_as_strict_as_the_api(app, operations, body, fits):
    content = operations["post /v1/jobs"]["requestBody"]["content"]["application/json"]
    schema = {**content["schema"], "components": document(app)["components"]}
    assert jsonschema_rs.is_valid(schema, body) == fits
    try:
        jobs_of(body, "ann", 60, {})
    except ApiError:
        assert not fits
    else:
        assert fits


MODEL = {"model": "m"}


@pytest.mark.parametrize(
    ("endpoint", "body", "fits"),
    [
        (Endpoint.COMPLETIONS, {"prompt": "x"}, True),
        (Endpoint.COMPLETIONS, {"prompt": ["x"]}, True),
        (Endpoint.COMPLETIONS, {"prompt": ["x", "y"]}, False),
        (Endpoint.COMPLETIONS, {"prompt": [7]}, False),
        (Endpoint.COMPLETIONS, {}, False),
        (Endpoint.EMBEDDINGS, {"input": "x"}, False),
        (Endpoint.EMBEDDINGS, {**MODEL, "input": "x"}, True),
        (Endpoint.EMBEDDINGS, {**MODEL, "input": ["x", "y"]}, True),
        (Endpoint.EMBEDDINGS, {**MODEL, "input": [7, 8]}, True),
        (Endpoint.EMBEDDINGS, {**MODEL, "input": [[7], [8]]}, True),
        (Endpoint.EMBEDDINGS, {**MODEL, "input": ["x", ""]}, False),
        (Endpoint.EMBEDDINGS, {**MODEL, "input": ["x"] * 2049}, False),
        (Endpoint.EMBEDDINGS, {**MODEL, "input": [7] * 2049}, True),
        (Endpoint.EMBEDDINGS, {**MODEL, "input": []}, False),
        (Endpoint.EMBEDDINGS, {**MODEL, "input": [-1]}, False),
        (Endpoint.EMBEDDINGS, {**MODEL, "input": [2**31]}, False),
        (Endpoint.EMBEDDINGS, {**MODEL, "input": "x", "encoding_format": "base64"}, True),
        (Endpoint.EMBEDDINGS, {**MODEL, "input": "x", "encoding_format": "hex"}, False),
        (Endpoint.EMBEDDINGS, {**MODEL, "input": "x", "dimensions": 0}, False),
    ],
)
def test_the_document_of_who_waits_is_as_strict_as_the_api(app, operations, endpoint, body, fits):
    content = operations[f"post {endpoint}"]["requestBody"]["content"]["application/json"]
    schema = {**content["schema"], "components": document(app)["components"]}
    assert jsonschema_rs.is_valid(schema, body) == fits
    try:
        submission_of(body, endpoint, {}, "ann", Deadlines(60, 60))
    except ApiError:
        assert not fits
    else:
        assert fits

"""The OpenAPI document says what the router serves."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest
from starlette.staticfiles import StaticFiles

from api.app import PREFIX, create_app
from api.openapi import document
from api.routing import Description, Route, Undescribed
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
        (route.method, route.path) for route in routes if isinstance(route.description, Description)
    }
    paths = document(app)["paths"]
    assert described == {(m.upper(), path) for path, methods in paths.items() for m in methods}
    for route in routes:
        if (route.method, route.path) not in described:
            assert isinstance(route.description, Undescribed), route.path


def test_each_route_under_the_prefix_has_a_twin_without_it_that_is_not_described_again(routes):
    twins = {(r.method, r.path) for r in routes if r.description is Undescribed.TWIN}
    prefixed = [r for r in routes if r.path.startswith(f"{PREFIX}/")]
    assert {(r.method, r.path.removeprefix(PREFIX)) for r in prefixed} == twins
    assert all(isinstance(r.description, Description) for r in prefixed)


def test_an_operation_has_the_parameters_of_its_query_and_its_path(app):
    poll = document(app)["paths"]["/v1/jobs/{id}"]["get"]
    parameters = [(p["in"], p["name"], p.get("required", False)) for p in poll["parameters"]]
    assert parameters == [("query", "wait", False), ("path", "id", True)]


def test_every_reference_of_the_document_leads_to_a_schema(app):
    names = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document(app))))
    assert names == set(document(app)["components"]["schemas"]), "and no schema is left over"

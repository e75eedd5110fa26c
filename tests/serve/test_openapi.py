"""The description of the routes is true: what it allows and forbids never breaks the server."""

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance
from serving import KEY, Stub

HEADERS = {"authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def stub():
    can = ("chat", "complete", "embed", "classify", "tag", "span", "translate", "summarize")
    return Stub(*can, answers=[[0.5, 1.0]])


def test_it_names_every_route(run_server, stub):
    server = run_server({"small": stub})
    assert httpx.get(f"{server.url}/openapi.json").status_code == 401
    table = httpx.get(f"{server.url}/openapi.json", headers=HEADERS).json()
    routes = {route.path.replace(":path", "") for route in server.service.app().routes}
    pages = {path for path in routes if path == "/" or path.startswith("/page/")}
    assert set(table["paths"]) == routes - pages
    for path, methods in table["paths"].items():
        for method in methods:
            asked = path.replace("{name}", "small")
            status = httpx.request(method, server.url + asked, headers=HEADERS).status_code
            assert str(status) in table["paths"][path][method]["responses"], (path, status)


@pytest.mark.slow
def test_nothing_that_it_allows_or_forbids_is_an_error_of_the_server(run_server, stub):
    checks = (not_a_server_error, status_code_conformance, content_type_conformance)
    server = run_server({"small": stub})
    table = httpx.get(f"{server.url}/openapi.json", headers=HEADERS).json()
    described = schemathesis.openapi.from_dict(table)
    described.config.update(base_url=server.url)
    modes = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
    statuses = []
    for operation in described.get_all_operations():
        for mode in modes:
            strategy = operation.ok().as_strategy(generation_mode=mode)

            @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
            @given(case=strategy)
            def asked(case):
                answer = case.call(headers=HEADERS)
                statuses.append(answer.status_code)
                case.validate_response(answer, checks=checks)

            asked()
    assert statuses.count(200) > 20 and statuses.count(400) > 50

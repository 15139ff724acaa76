"""`/openapi.json` is valid, and says what the service does: no more, no less."""

import re
from typing import Any

import jsonschema
import openapi_spec_validator
import pytest

from shared.errors import CODES
from shared.jobs.recording import Failure
from shared.tables import INGESTION_STATUSES, LANES, STATUSES
from tests.functional.conftest import API, VERSION, picture

_OF_WORK_ONLY = {
    "image_unreadable",
    "image_unreachable",
    "worker_lost",
    "inference_failed",
    "deadline_passed",
    # Of items, and of ingestions that cannot be read or go on.
    "entry_refused",
    "source_damaged",
    "source_too_large",
    "source_missing",
    "source_unreachable",
    "too_many_failures",
    "expander_lost",
    # Every call may meet these; each says them where they tell something about it.
    "method_not_allowed",
}


@pytest.fixture
def document(api: API) -> dict[str, Any]:
    body: dict[str, Any] = api.client.get("/openapi.json").json
    return body


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    openapi_spec_validator.validate(document)


def test_every_call_is_described(api: API, document: dict[str, Any]) -> None:
    described = {
        (method.upper(), path)
        for path, item in document["paths"].items()
        for method in item
        if method != "parameters"
    }
    routed = {
        (method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in api.app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if not rule.endpoint.startswith("pages.") and not rule.endpoint.endswith("static")
    }
    assert described == routed


def test_every_code_is_listed(document: dict[str, Any]) -> None:
    assert set(document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]) == set(
        CODES
    )
    listed = {
        code
        for item in document["paths"].values()
        for method, call in item.items()
        if method != "parameters"
        for response in call["responses"].values()
        for content in response.get("content", {}).values()
        for part in content["schema"].get("allOf", [])
        for code in part.get("properties", {}).get("code", {}).get("enum", [])
    }
    assert listed == set(CODES) - _OF_WORK_ONLY


def test_states_and_lanes_are_those_of_the_table(document: dict[str, Any]) -> None:
    properties = document["components"]["schemas"]["Job"]["properties"]
    assert properties["status"]["enum"] == list(STATUSES)
    assert properties["lane"]["enum"] == list(LANES)
    of_ingestion = document["components"]["schemas"]["Ingestion"]["properties"]
    assert of_ingestion["status"]["enum"] == list(INGESTION_STATUSES)


def _check(document: dict[str, Any], name: str, body: Any) -> None:
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    jsonschema.Draft202012Validator(schema).validate(body)
    expected = document["components"]["schemas"][name]["properties"]
    assert set(body) <= set(expected), name


def test_answers_are_as_described(api: API, document: dict[str, Any]) -> None:
    queued = api.job()
    _check(document, "Job", queued)
    api.work()
    _check(document, "Job", api.show(queued["id"]))
    failed = api.job(data=picture(colour=1), metadata='{"a": 1}', deadline_seconds=60)
    api.work(Failure("image_unreadable", "Broken."))
    _check(document, "Job", api.show(failed["id"]))
    address = api.hand_in().headers["Location"]
    _check(document, "Ingestion", api.client.get(address).json)
    handed_in = api.client.get("/v1/ingestions").json
    assert handed_in["data"]
    _check(document, "Ingestions", handed_in)
    listed = api.client.get("/v1/jobs?limit=1").json
    assert listed["data"] and listed["next_cursor"]
    _check(document, "Jobs", listed)
    _check(document, "Models", api.client.get("/v1/models").json)
    for name in ("digits", "vgg16"):
        _check(document, "Model", api.client.get(f"/v1/models/{name}").json)
    version = api.client.get(f"/v1/models/digits/versions/{VERSION}").json
    _check(document, "ModelVersion", version)
    _check(document, "Problem", api.client.get("/v1/nonsense").json)
    _check(document, "Problem", api.submit(top_k="0").json)

"""Each refusal, with its status and code, as problem+json; and nothing stored after any."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from werkzeug.test import TestResponse

from shared.database import stamp
from shared.errors import CODES
from shared.tables import model_versions
from tests.functional.conftest import API, MAX_IMAGE_BYTES, VERSION, data_url, picture
from tests.pictures import bare_tiff


def assert_problem(response: TestResponse, status: int, code: str) -> dict[str, Any]:
    """The response is a complete problem with this status and code."""
    assert response.status_code == status, response.text
    assert response.mimetype == "application/problem+json"
    body: dict[str, Any] = response.json
    assert body["code"] == code, body
    assert body["status"] == status == CODES[code].status
    assert body["title"] == CODES[code].title
    assert body["detail"]
    assert body["retryable"] is CODES[code].retryable
    assert body["type"].endswith(code)
    assert response.headers["X-Request-ID"]
    return body


def nothing_is_stored(api: API) -> bool:
    return not list(api.services.storage.list("images"))


def header_of_a_png(width: int, height: int) -> bytes:
    """A PNG that claims a size, and has no pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + struct.pack(">I", 0)
        + b"IDAT"
        + struct.pack(">I", zlib.crc32(b"IDAT"))
    )


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", b"\xff\xd8\xff", b"GIF89a", b"%PDF-1.7", b"<svg xmlns='x'/>", b"\x89PNG\r\n"],
    ids=["empty", "text", "jpeg-start", "gif-start", "pdf", "svg", "png-start"],
)
def test_what_is_no_image_is_415(api: API, data: bytes) -> None:
    assert_problem(api.submit(data), 415, "unsupported_image")
    raw = api.client.post("/v1/jobs?model=digits", data=data, content_type="image/png")
    assert_problem(raw, 415, "unsupported_image")
    body = {"image": data_url(data), "model": "digits"}
    assert_problem(api.client.post("/v1/jobs", json=body), 415, "unsupported_image")
    assert nothing_is_stored(api)


def test_a_format_that_is_not_listed_is_415(api: API) -> None:
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PPM")
    assert_problem(api.submit(file.getvalue()), 415, "unsupported_image")


def test_an_image_without_a_white_is_415(api: API) -> None:
    floats = bare_tiff(np.zeros((8, 8), np.float32), sample_format=3)
    assert (
        "floating point" in assert_problem(api.submit(floats), 415, "unsupported_image")["detail"]
    )


@pytest.mark.parametrize("size", [(1001, 1000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_too_many_pixels_are_413_by_the_header_alone(api: API, size: tuple[int, int]) -> None:
    assert_problem(api.submit(header_of_a_png(*size)), 413, "image_too_large")
    assert nothing_is_stored(api)


def test_as_many_pixels_as_are_allowed_are_taken(api: API) -> None:
    assert api.submit(header_of_a_png(1000, 1000)).status_code == 202


@pytest.mark.parametrize("size", [MAX_IMAGE_BYTES + 1, MAX_IMAGE_BYTES * 3])
def test_too_many_bytes_are_413_in_every_form(api: API, size: int) -> None:
    data = picture().ljust(size, b"\0")
    assert_problem(api.submit(data), 413, "image_too_large")
    raw = api.client.post("/v1/jobs?model=digits", data=data, content_type="image/png")
    assert_problem(raw, 413, "image_too_large")
    body = {"image": data_url(data), "model": "digits"}
    assert_problem(api.client.post("/v1/jobs", json=body), 413, "image_too_large")
    assert nothing_is_stored(api)


def test_as_many_bytes_as_are_allowed_are_taken_in_every_form(api: API) -> None:
    data = picture().ljust(MAX_IMAGE_BYTES, b"\0")
    assert api.submit(data).status_code == 202
    raw = api.client.post("/v1/jobs?model=digits", data=data, content_type="image/png")
    assert raw.status_code == 202
    body = {"image": data_url(data), "model": "digits"}
    assert api.client.post("/v1/jobs", json=body).status_code == 202


def test_too_many_fields_are_413(api: API) -> None:
    response = api.submit(**{f"field{i}": "x" for i in range(100)})
    assert_problem(response, 413, "request_too_large")


def multipart(**fields: bytes) -> tuple[bytes, str]:
    """A form, written by hand: the test client writes a large one to a file that it forgets."""
    parts = [
        b'--limit\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
        % (name.encode(), b'; filename="a.png"' if name == "image" else b"", value)
        for name, value in fields.items()
    ]
    return b"".join(parts) + b"--limit--\r\n", "multipart/form-data; boundary=limit"


def test_a_field_without_end_is_413(make_api: Callable[..., API], prepared: dict[str, Any]) -> None:
    api = make_api(**prepared, max_image_bytes=2_000_000)
    body, content_type = multipart(reference=b"x" * 1_000_000)
    response = api.client.post("/v1/jobs", data=body, content_type=content_type)
    assert_problem(response, 413, "request_too_large")


@pytest.mark.parametrize("size", [65_536, 131_000, 500_000, 1_999_999, 2_000_000])
def test_a_large_image_is_taken_whatever_its_size(
    make_api: Callable[..., API], prepared: dict[str, Any], size: int
) -> None:
    api = make_api(**prepared, max_image_bytes=2_000_000)
    for fill in (b"\0", b"\r\n", b"\r\n--limi"):
        data = picture() + fill * size
        body, content_type = multipart(model=b"digits", image=data[:size])
        response = api.client.post("/v1/jobs", data=body, content_type=content_type)
        assert response.status_code == 202, response.text


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "text/plain",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
        "application/xml",
    ],
)
def test_another_content_type_is_415(api: API, content_type: str | None) -> None:
    response = api.client.post("/v1/jobs", data=picture(), content_type=content_type)
    assert_problem(response, 415, "unsupported_media_type")


@pytest.mark.parametrize("text", ["", "{", "nonsense", "[" * 100_000, '{"image": 1e', "\xff"])
def test_what_is_no_json_is_400(api: API, text: str) -> None:
    response = api.client.post(
        "/v1/jobs", data=text.encode("latin-1"), content_type="application/json"
    )
    assert_problem(response, 400, "bad_request")


@pytest.mark.parametrize(
    "text", ["[]", '"text"', "5", "null", "{}", '{"image": 5}', '{"image": null}']
)
def test_json_without_an_image_is_422(api: API, text: str) -> None:
    response = api.client.post("/v1/jobs", data=text, content_type="application/json")
    assert_problem(response, 422, "invalid_value")


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/cat.png",
        "http://127.0.0.1/",
        "file:///etc/passwd",
        "data:image/png,plain",
        "data:image/png;base64,###",
        "data:image/png;base64,ü",
        "data:image/png;base64,AAA",
        "/etc/passwd",
        "",
    ],
)
def test_only_a_data_url_is_taken(api: API, url: str) -> None:
    response = api.client.post("/v1/jobs", json={"image": url, "model": "digits"})
    problem = assert_problem(response, 422, "invalid_value")
    assert problem["errors"][0]["field"] == "image"


def test_an_address_is_refused_in_plain_words(api: API) -> None:
    response = api.client.post("/v1/jobs", json={"image": "https://example.org/cat.png"})
    assert "addresses are not taken" in response.json["detail"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("top_k", "0"),
        ("top_k", "21"),
        ("top_k", "many"),
        ("top_k", "1e9999"),
        ("min_score", "1.1"),
        ("min_score", "nan"),
        ("min_score", "-inf"),
        ("deadline_seconds", "0"),
        ("deadline_seconds", "-1"),
        ("deadline_seconds", "inf"),
        ("deadline_seconds", "1e300"),
        ("reference", "x" * 201),
        ("reference", "a\x00b"),
        ("metadata", "nonsense"),
        ("metadata", "[]"),
        ("metadata", '"text"'),
        ("metadata", '{"a": NaN}'),
        ("metadata", '{"a": 1e999}'),
        ("metadata", '{"a": "\\u0000"}'),
        ("metadata", '{"\\ud800": 1}'),
        ("metadata", '{"a":' + "[" * 900 + "]" * 900 + "}"),
        ("metadata", "[" * 60_000),
        ("lane", "urgent"),
        ("topk", "5"),
        ("webhook_url", "https://example.org/"),
    ],
)
def test_a_wrong_option_is_422_and_named(api: API, option: str, value: str) -> None:
    problem = assert_problem(api.submit(**{option: value}), 422, "invalid_value")
    assert problem["errors"][0]["field"] == option
    assert option in problem["detail"]
    assert nothing_is_stored(api)


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": "5"},
        {"top_k": True},
        {"top_k": 5.5},
        {"min_score": "0.5"},
        {"metadata": "{}"},
        {"model": 5},
        {"unknown": 1},
    ],
)
def test_json_takes_values_of_json_types_only(api: API, options: dict[str, Any]) -> None:
    response = api.client.post("/v1/jobs", json={"image": data_url(picture()), **options})
    assert_problem(response, 422, "invalid_value")


def test_every_wrong_option_is_told(api: API) -> None:
    problem = assert_problem(api.submit(top_k="x", lane="y", zzz="z"), 422, "invalid_value")
    assert {error["field"] for error in problem["errors"]} == {"top_k", "lane", "zzz"}
    assert all(error["detail"] for error in problem["errors"])


def test_an_option_given_twice_is_422(api: API) -> None:
    response = api.client.post(
        "/v1/jobs?model=digits&model=vgg16", data=picture(), content_type="image/png"
    )
    assert_problem(response, 422, "invalid_value")


def test_an_option_in_the_wrong_place_is_422(api: API) -> None:
    file = (io.BytesIO(picture()), "a.png")
    response = api.client.post("/v1/jobs?model=digits", data={"image": file})
    problem = assert_problem(response, 422, "invalid_value")
    assert problem["errors"][0]["field"] == "model"


@pytest.mark.parametrize("count", [0, 2])
def test_exactly_one_file_is_taken(api: API, count: int) -> None:
    files = [(io.BytesIO(picture()), "a.png") for _ in range(count)]
    response = api.client.post(
        "/v1/jobs",
        data={"image": files, "model": "digits"},
        content_type="multipart/form-data",
    )
    assert_problem(response, 422, "invalid_value")


def test_a_file_in_another_field_is_422(api: API) -> None:
    file = (io.BytesIO(picture()), "a.png")
    problem = assert_problem(api.submit(mask=file), 422, "invalid_value")
    assert problem["errors"][0]["field"] == "mask"


def test_a_form_without_a_boundary_is_422(api: API) -> None:
    response = api.client.post("/v1/jobs", data=b"x", content_type="multipart/form-data")
    assert_problem(response, 422, "invalid_value")


@pytest.mark.parametrize(
    "name", ["nonsense", "digits@", "digits@ffffffffffff", "@", "VGG16", "größe", "a\x00b"]
)
def test_an_unknown_model_is_422(api: API, name: str) -> None:
    response = api.submit(model=name)
    assert response.status_code == 422
    assert response.json["code"] == ("invalid_value" if "\0" in name else "model_unknown")
    assert nothing_is_stored(api)


def test_a_model_that_is_not_installed_is_503_with_what_mends_it(api: API) -> None:
    for options in ({"model": "vgg16"}, {"model": ""}):  # it is the default, too
        response = api.submit(**options)
        problem = assert_problem(response, 503, "model_unavailable")
        assert "classify models import vgg16 FILE" in problem["detail"]
        assert int(response.headers["Retry-After"]) > 0
    assert nothing_is_stored(api)


def test_a_version_that_was_removed_is_422(api: API) -> None:
    api.database.transact(
        lambda connection: connection.execute(
            model_versions.update()
            .where(model_versions.c.version == VERSION)
            .values(removed_at=stamp())
        )
    )
    assert_problem(api.submit(model=f"digits@{VERSION}"), 422, "model_unknown")


@pytest.mark.parametrize(
    "path",
    [
        "/v1",
        "/v1/",
        "/v1/nonsense",
        "/v1/jobs/",
        "/v1/jobs/nonsense",
        "/v1/jobs/00000000-0000-0000-0000-000000000000",
        "/v1/jobs/00000000-0000-0000-0000-000000000000/image",
        "/v1/models/nonsense",
        "/v1/models/a%00b",
        "/v1/models/digits/versions/nonsense",
        "/v1/models/nonsense/versions/nonsense",
        "/problems/nonsense",
    ],
)
@pytest.mark.parametrize("accept", ["*/*", "text/html,*/*;q=0.8"])
def test_what_is_not_there_is_404_for_programs(api: API, path: str, accept: str) -> None:
    assert_problem(api.client.get(path, headers={"Accept": accept}), 404, "not_found")


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/models", "/healthz", "/readyz", "/openapi.json"])
def test_another_method_is_405_with_those_that_are_taken(api: API, path: str) -> None:
    response = api.client.patch(path)
    assert_problem(response, 405, "method_not_allowed")
    assert response.headers["Allow"]


def test_people_get_a_page(api: API) -> None:
    response = api.client.get("/nonsense", headers={"Accept": "text/html,*/*;q=0.8"})
    assert response.status_code == 404
    assert response.mimetype == "text/html"
    assert_problem(api.client.get("/nonsense"), 404, "not_found")


def test_a_code_is_explained_at_its_type(api: API) -> None:
    problem = api.client.get("/v1/nonsense").json
    assert api.client.get(problem["type"]).json["code"] == "not_found"


def test_a_fault_of_ours_is_500_without_its_inside(
    api: API, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(api.services.storage, "check", fail)
    response = api.client.get("/readyz")
    assert_problem(response, 500, "internal_error")
    assert "secret" not in response.text

"""Whatever bytes come in, the answer is a refusal with a code: never a fault of ours."""

import math

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.functional.conftest import API, data_url, picture

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
_ORIGINALS = [picture(format_) for format_ in _FORMATS]
_CONTENT_TYPES = st.sampled_from(
    ["image/png", "application/json", "multipart/form-data; boundary=b", "multipart/form-data"]
)

# PostgreSQL keeps a number of 16 digits and more as an integer, with a float's digits.
_NUMBERS = st.floats(-1e15, 1e15) | st.sampled_from([math.inf, -math.inf, math.nan])


@st.composite
def damaged_images(draw: st.DrawFn) -> bytes:
    """An image with some bytes changed, and perhaps cut short."""
    data = bytearray(draw(st.sampled_from(_ORIGINALS)))
    for _ in range(draw(st.integers(1, 8))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))])


garbage_settings = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@garbage_settings
@given(data=st.binary(max_size=2000) | damaged_images())
def test_any_upload_is_taken_or_refused(api: API, data: bytes) -> None:
    response = api.submit(data)
    if response.status_code not in (200, 202):
        assert response.status_code in (413, 415), response.text
        assert response.mimetype == "application/problem+json"


@garbage_settings
@given(data=st.binary(max_size=500), content_type=_CONTENT_TYPES)
def test_any_body_is_refused(api: API, data: bytes, content_type: str) -> None:
    response = api.client.post("/v1/jobs?model=digits", data=data, content_type=content_type)
    assert response.status_code in (400, 413, 415, 422), response.text
    assert response.mimetype == "application/problem+json"


@garbage_settings
@given(
    values=st.dictionaries(
        st.sampled_from(
            ["model", "top_k", "min_score", "deadline_seconds", "reference", "metadata", "lane"]
        ),
        st.text(max_size=50),
    )
)
def test_any_options_are_taken_or_refused(api: API, values: dict[str, str]) -> None:
    response = api.client.post(
        "/v1/jobs", query_string=values, data=picture(), content_type="image/png"
    )
    assert response.status_code in (200, 202, 422, 503), response.text


@garbage_settings
@given(json=st.recursive(st.none() | st.booleans() | _NUMBERS | st.text(), st.lists))
def test_any_metadata_is_kept_or_refused(api: API, json: object) -> None:
    body = {"image": data_url(picture()), "model": "digits", "metadata": {"x": json}}
    response = api.client.post("/v1/jobs", json=body)
    if response.status_code != 422:
        assert response.status_code == 202, response.text
        assert response.json["metadata"] == {"x": json}


_ARCHIVES = st.sampled_from([b"PK\x03\x04", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"a.png\n", b"{}"])
_SOURCE_TYPES = _CONTENT_TYPES | st.sampled_from(["application/zip", "text/csv"])


@garbage_settings
@given(
    data=st.binary(max_size=500) | st.builds(bytes.__add__, _ARCHIVES, st.binary(max_size=500)),
    content_type=_SOURCE_TYPES,
)
def test_any_source_is_taken_or_refused(api: API, data: bytes, content_type: str) -> None:
    response = api.client.post("/v1/ingestions?model=digits", data=data, content_type=content_type)
    if response.status_code != 202:
        assert response.status_code in (400, 413, 415, 422), response.text
        assert response.mimetype == "application/problem+json"


_PARTS = st.lists(
    st.sampled_from(
        [
            b"--b\r\n",
            b"--b--\r\n",
            b"\r\n--b\r\n",
            b"\r\n\r\n",
            b'Content-Disposition: form-data; name="archive"; filename="a.zip"\r\n',
            b'Content-Disposition: form-data; name="image"; filename="../../a\0.png"\r\n',
            b'Content-Disposition: form-data; filename="a.png"\r\n',
            b'Content-Disposition: form-data; name="model"\r\n\r\ndigits',
            b"Content-Disposition: form-data\r\n",
            b"PK\x03\x04",
        ]
    ),
    max_size=12,
)


@garbage_settings
@given(parts=_PARTS)
def test_any_form_is_taken_or_refused(api: API, parts: list[bytes]) -> None:
    response = api.client.post(
        "/v1/ingestions",
        data=b"".join(parts),
        content_type="multipart/form-data; boundary=b",
    )
    if response.status_code != 202:
        # The default model is not there.
        assert response.status_code in (400, 413, 415, 422, 503), response.text
        assert response.mimetype == "application/problem+json"

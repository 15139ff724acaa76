"""Which addresses a client may name, and what kind of source they are."""

import os
from pathlib import Path
from typing import Any

import pytest

from shared.errors import ProblemError
from shared.ingestions.addresses import check_address, check_output, classify_source
from shared.settings import Settings


def make(**values: Any) -> Settings:
    return Settings(_env_file=None, **values)


def refusal(settings: Settings, url: str) -> str:
    with pytest.raises(ProblemError) as refused:
        classify_source(settings, url)
    assert refused.value.detail.endswith(".")
    refused.value.detail.encode()  # can be sent
    return refused.value.code


HOSTS = make(source_hosts="Pictures.example.com, 127.0.0.1:8080, [::1]:99")
BUCKETS = make(source_prefixes="s3://bucket/photos, gs://other")


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://pictures.example.com/a.zip", "https://pictures.example.com/a.zip"),
        ("HTTPS://PICTURES.example.com:443/List?x=1#top", "https://pictures.example.com/List?x=1"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080/"),
        ("http://[::1]:99/x", "http://[::1]:99/x"),
    ],
)
def test_an_address_of_a_listed_host_is_a_file(url: str, kept: str) -> None:
    source = classify_source(HOSTS, url)
    assert (source.kind, source.url) == ("file", kept)


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("https://example.com/a.zip", "source_refused"),
        ("https://pictures.example.com:8443/a.zip", "source_refused"),
        ("https://pictures.example.com.evil.org/", "source_refused"),
        ("http://127.0.0.1/", "source_refused"),
        ("https://pictures.example.com@evil.org/", "source_refused"),
        ("https://user:pass@pictures.example.com/", "source_refused"),
        ("https://pictures.example.com\\@evil.org/", "invalid_value"),
        ("https://pictures.example.com/a b", "invalid_value"),
        ("https://pictures.example.com/a\nHost: x", "invalid_value"),
        ("https://pictures.example.com:port/", "invalid_value"),
        ("https://[::1/", "invalid_value"),
        ("https:///a.zip", "invalid_value"),
        (f"https://pictures.example.com/{'a' * 2000}", "invalid_value"),
        ("data:image/png;base64,AAAA", "unsupported_source"),
        ("ftp://pictures.example.com/a.zip", "unsupported_source"),
        ("pictures.example.com/a.zip", "unsupported_source"),
        ("", "unsupported_source"),
        ("https://pictures.example.com/\ud800", "invalid_value"),
    ],
)
def test_other_hosts_and_what_parsers_disagree_about_are_refused(url: str, code: str) -> None:
    assert refusal(HOSTS, url) == code


@pytest.mark.parametrize(
    ("url", "kind", "kept"),
    [
        ("s3://bucket/photos", "bucket", "s3://bucket/photos"),
        ("s3://bucket/photos/", "bucket", "s3://bucket/photos"),
        ("s3://bucket/photos/a b%20/ä", "bucket", "s3://bucket/photos/a b%20/ä"),
        ("s3://bucket/photos/all.TAR.gz", "file", "s3://bucket/photos/all.TAR.gz"),
        ("s3://bucket/photos/list.jsonl", "file", "s3://bucket/photos/list.jsonl"),
        ("s3://bucket/photos/all.zip/", "bucket", "s3://bucket/photos/all.zip"),
        ("gs://other", "bucket", "gs://other"),
    ],
)
def test_below_a_listed_prefix_the_end_says_file_or_bucket(url: str, kind: str, kept: str) -> None:
    source = classify_source(BUCKETS, url)
    assert (source.kind, source.url) == (kind, kept)


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("s3://bucket", "source_refused"),
        ("s3://bucket/photos-of-others", "source_refused"),
        ("s3://bucket2/photos", "source_refused"),
        ("gs://bucket/photos", "source_refused"),
        ("s3://bucket/photos/../secrets", "invalid_value"),
        ("s3://bucket/photos//x", "invalid_value"),
        ("s3://bucket/photos/\ud800", "invalid_value"),
        ("s3://bucket/photos/a\x00b", "invalid_value"),
        ("s3:///photos", "invalid_value"),
        ("s3://user@bucket/photos", "invalid_value"),
    ],
)
def test_buckets_and_prefixes_beside_the_listed_ones_are_refused(url: str, code: str) -> None:
    assert refusal(BUCKETS, url) == code


def test_a_path_counts_as_where_it_leads(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "root-2"
    (root / "in").mkdir(parents=True)
    outside.mkdir()
    (root / "way-out").symlink_to(outside)
    (root / "way-in").symlink_to(root / "in")
    (root / "loop").symlink_to(root / "loop")
    (tmp_path / "alias").symlink_to(root)
    settings = make(source_roots=f"{tmp_path / 'alias'}")

    source = classify_source(settings, (root / "in").as_uri())
    assert (source.kind, source.address.path) == ("directory", root / "in")
    assert classify_source(settings, f"file://localhost{root}").url == root.as_uri()
    assert classify_source(settings, f"{tmp_path.as_uri()}/alias/way-in").url.endswith("/root/in")
    assert classify_source(settings, f"{root.as_uri()}/all.zip").kind == "file"
    assert classify_source(settings, f"{root.as_uri()}/all.zip/").kind == "directory"
    odd = os.fsencode(root / "in") + b"/\xff \xc3\xa4"
    path = classify_source(settings, Path(os.fsdecode(odd)).as_uri()).address.path
    assert path is not None and os.fsencode(path) == odd

    for refused in ("root-2", "", "root/way-out", "root/../root-2", "root/%2e%2e/root-2", "roo"):
        assert refusal(settings, f"{tmp_path.as_uri()}/{refused}") == "source_refused", refused
    assert refusal(settings, f"file://elsewhere{root}") == "invalid_value"
    assert refusal(settings, f"{root.as_uri()}?x") == "invalid_value"
    assert refusal(settings, f"{root.as_uri()}/a%00b") == "invalid_value"
    assert refusal(settings, "file://localhost") == "invalid_value"


def test_nothing_is_allowed_unless_the_operator_says_so(tmp_path: Path) -> None:
    for url in (tmp_path.as_uri(), "s3://bucket/x", "https://example.com/list.txt"):
        assert refusal(make(), url) == "source_refused"
        with pytest.raises(ProblemError):
            check_output(make(), url)


def test_results_go_below_the_prefixes_for_results(tmp_path: Path) -> None:
    settings = make(output_prefixes=f"s3://bucket/results, file://{tmp_path}", source_roots="/")
    assert check_output(settings, "s3://bucket/results/1/").url == "s3://bucket/results/1"
    assert check_output(settings, f"file://{tmp_path}/new").path == tmp_path / "new"
    for url, code in (
        ("s3://bucket/results2", "source_refused"),
        ("file:///etc", "source_refused"),
        ("https://example.com/", "unsupported_source"),
    ):
        with pytest.raises(ProblemError) as refused:
            check_output(settings, url)
        assert refused.value.code == code
    assert check_address(settings, "file:///etc").path == Path("/etc")

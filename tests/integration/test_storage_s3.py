"""How a bucket fails, what is said then, whose keys are taken, and the cache of model files."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from shared.errors import ConfigurationError, ObjectMissing, Unavailable
from shared.settings import Settings, load_settings
from shared.storage.opening import open_storage
from shared.storage.protocol import Storage
from tests.integration.helpers import in_threads
from tests.services import ROOT, S3Server

NAME = "images/abc/1"
# Long enough for a server on a busy machine, where it is not the point that there is none.
PATIENT = 30.0
HASTY = 0.3


def make(server: S3Server, url: str | None = None, **values: Any) -> Storage:
    given = {
        "storage_url": url or server.url(),
        "storage_timeout_seconds": PATIENT,
        **server.settings,
        **values,
    }
    return open_storage(Settings(_env_file=None, **given))


def uses(storage: Storage, directory: Path) -> list[Callable[[], Any]]:
    """Everything one can ask of a storage."""
    source = directory / "source"
    source.write_bytes(b"weights")
    return [
        lambda: storage.write(NAME, b"data"),
        lambda: storage.write_file("models/1/weights", source),
        lambda: storage.read(NAME),
        lambda: storage.fetch_directory("models/1", directory / "cache"),
        lambda: storage.delete(NAME, "images/abc/2"),
        lambda: list(storage.list("images")),
        storage.check,
    ]


def refusals(storage: Storage, directory: Path) -> set[str]:
    """What each use says while nothing is to be had, in one line each."""
    asked = uses(storage, directory)

    def ask(number: int) -> str:
        with pytest.raises(Unavailable) as refused:
            asked[number]()
        return str(refused.value)

    said = set(in_threads(len(asked), ask))
    assert not (directory / "cache").exists()
    assert all("\n" not in sentence for sentence in said)
    return said


# The storage is away


def test_a_server_that_is_gone_is_unavailable_until_it_is_back(
    s3_server: S3Server, tmp_path: Path
) -> None:
    storage = make(s3_server)
    storage.write(NAME, b"data")
    s3_server.kill()
    for sentence in refusals(storage, tmp_path):
        assert sentence.endswith(f"no connection to {s3_server.endpoint}")
    s3_server.start()
    storage.write(NAME, b"data")
    assert storage.read(NAME) == b"data"


def test_a_frozen_server_is_unavailable_after_a_while(s3_server: S3Server, tmp_path: Path) -> None:
    storage = make(s3_server, storage_timeout_seconds=HASTY)
    s3_server.freeze()
    for sentence in refusals(storage, tmp_path):
        assert sentence.endswith("it does not answer in time")
    s3_server.thaw()
    make(s3_server).check()


def test_a_missing_bucket_is_no_missing_object(s3_server: S3Server, tmp_path: Path) -> None:
    for sentence in refusals(make(s3_server, "s3://nobody/images"), tmp_path):
        assert sentence.startswith("the storage s3://nobody/images cannot be ")
        assert sentence.endswith("The specified bucket does not exist (NoSuchBucket)")


def test_keys_that_are_refused_are_named_as_the_trouble(
    s3_server: S3Server, tmp_path: Path
) -> None:
    storage = make(s3_server)
    with s3_server.refusing_keys():
        for sentence in refusals(storage, tmp_path):
            assert sentence.endswith("(InvalidAccessKeyId)")


class Recorder:
    """A server that answers as it is told, and notes who asked for what."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []
        self.answer: Callable[[str, str], tuple[int, str]] = lambda method, path: (404, "")
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                recorder.asked.append(
                    (self.command, self.path, self.headers.get("Authorization", ""))
                )
                status, body = recorder.answer(self.command, self.path)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("ETag", '"0"')
                self.end_headers()
                self.wfile.write(body.encode())

            do_GET = do_PUT = do_POST = do_DELETE = handle_any

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def storage(self, **values: Any) -> Storage:
        given = {
            "storage_url": "s3://bucket/prefix",
            "aws_endpoint_url": self.address,
            "aws_region": "eu-central-1",
            "storage_timeout_seconds": PATIENT,
            **values,
        }
        return open_storage(Settings(_env_file=None, **given))

    def signers(self) -> set[str]:
        """Ids of the keys that signed what was asked."""
        return {
            authorization.split("Credential=")[1].split("/")[0]
            for _, _, authorization in self.asked
            if "Credential=" in authorization
        }

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """A server that finds nothing, in an environment that says nothing of AWS."""
    import os

    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    recorder = Recorder()
    yield recorder
    recorder.close()


KEYS = {"aws_access_key_id": "KEY", "aws_secret_access_key": "secret"}
MISSING = "<Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, ""),
        (404, "<html>This proxy knows no such page</html>"),
        (403, "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"),
        (500, "<Error><Code>InternalError</Code><Message>Sorry</Message></Error>"),
        (503, "<Error><Code>SlowDown</Code><Message>Slow down</Message></Error>"),
    ],
)
def test_only_a_definite_answer_makes_an_object_missing(
    recorder: Recorder, status: int, body: str
) -> None:
    recorder.answer = lambda method, path: (status, body)
    with pytest.raises(Unavailable) as refused:
        recorder.storage(**KEYS, storage_timeout_seconds=HASTY).read(NAME)
    assert "\n" not in str(refused.value)
    recorder.answer = lambda method, path: (404, MISSING)
    with pytest.raises(ObjectMissing):
        recorder.storage(**KEYS).read(NAME)


def test_an_upload_that_fails_on_its_way_is_taken_back(recorder: Recorder, tmp_path: Path) -> None:
    """The parts that had arrived would else lie in the bucket, unseen, and be paid for."""

    def answer(method: str, path: str) -> tuple[int, str]:
        if method == "POST" and "?uploads" in path:
            started = "InitiateMultipartUploadResult"
            return 200, f"<{started}><UploadId>7</UploadId></{started}>"
        return (403, "") if "partNumber=2" in path else (200, "")

    recorder.answer = answer
    source = tmp_path / "weights"
    source.write_bytes(bytes(20 * 2**20))
    with pytest.raises(Unavailable):
        recorder.storage(**KEYS).write_file("models/1/weights", source)
    methods = [(method, path) for method, path, _ in recorder.asked]
    assert ("DELETE", "/bucket/prefix/models/1/weights?uploadId=7") in methods
    assert ("POST", "/bucket/prefix/models/1/weights?uploadId=7") not in methods  # its completion


# Whose keys


def sign(recorder: Recorder, **values: Any) -> set[str]:
    with pytest.raises(ObjectMissing):
        recorder.answer = lambda method, path: (404, MISSING)
        recorder.storage(**values).read(NAME)
    return recorder.signers()


def test_keys_of_the_settings_sign_and_none_of_them_is_shown(recorder: Recorder) -> None:
    assert sign(recorder, **KEYS) == {"KEY"}
    shown = repr(Settings(_env_file=None, **KEYS))
    assert "secret'" not in shown


def test_keys_of_the_environment_and_of_secret_files_sign(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_text("secret\n")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "FROM_ENVIRONMENT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY_FILE", str(tmp_path / "secret"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", recorder.address)
    monkeypatch.setenv("CLASSIFIER_STORAGE_URL", "s3://bucket/prefix")
    storage = open_storage(load_settings())
    recorder.answer = lambda method, path: (404, MISSING)
    with pytest.raises(ObjectMissing):
        storage.read(NAME)
    assert recorder.signers() == {"FROM_ENVIRONMENT"}


def test_keys_of_a_profile_sign(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "credentials").write_text(
        "[default]\naws_access_key_id=DEFAULT\naws_secret_access_key=x\n"
        "[ours]\naws_access_key_id=OURS\naws_secret_access_key=x\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    assert sign(recorder, aws_profile="ours") == {"OURS"}
    with pytest.raises(ConfigurationError, match="AWS_PROFILE"):
        recorder.storage(aws_profile="nobody")


def test_a_profile_without_boto3_is_refused_with_what_mends_it(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ConfigurationError, match="boto3"):
        recorder.storage(aws_profile="ours")
    recorder.storage(aws_profile="ours", **KEYS)  # keys come first


def test_without_keys_the_role_of_the_machine_signs(
    recorder: Recorder, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moto answers for the metadata service of a machine too."""
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", s3_server.endpoint)
    [signer] = sign(recorder)
    assert signer not in {"", "test"}
    assert s3_server.requests("PUT", "/latest/api/token")


def test_no_keys_at_all_is_told_as_that(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", recorder.address)
    with pytest.raises(Unavailable, match="there are no credentials"):
        recorder.storage().check()


# What can't be


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"storage_url": "gs://bucket"}, "CLASSIFIER_STORAGE_URL"),
        ({"storage_url": "s3:///prefix"}, "CLASSIFIER_STORAGE_URL"),
        ({"storage_url": "/srv/images"}, "CLASSIFIER_STORAGE_URL"),
        ({"storage_url": "file://host/images"}, "CLASSIFIER_STORAGE_URL"),
        ({"aws_endpoint_url": ""}, "AWS_ENDPOINT_URL"),
        ({"aws_endpoint_url": "minio:9000"}, "AWS_ENDPOINT_URL"),
        ({"aws_access_key_id": "KEY"}, "s3://bucket/prefix: .*SecretAccessKey"),
    ],
)
def test_a_configuration_that_names_no_storage_is_refused(
    recorder: Recorder, values: dict[str, str], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        recorder.storage(**values)


@pytest.mark.parametrize("command", [["web"], ["db", "upgrade"]])
def test_a_command_says_in_one_line_that_its_storage_cannot_be(
    command: list[str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ops.cli", *command],
        cwd=ROOT,
        env={
            "PATH": "/usr/bin:/bin",
            "CLASSIFIER_DATA_DIR": str(tmp_path),
            "CLASSIFIER_STORAGE_URL": "gs://bucket",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("Error: CLASSIFIER_STORAGE_URL: gs://bucket is neither")


# The cache of model files


def test_two_places_of_one_bucket_share_nothing(s3_server: S3Server) -> None:
    first, second = make(s3_server), make(s3_server)
    first.write(NAME, b"data")
    with pytest.raises(ObjectMissing):
        second.read(NAME)
    assert list(second.list("images")) == []
    bare = make(s3_server, f"s3://{s3_server.bucket}")
    assert NAME in {found.name.split("/", 1)[1] for found in bare.list("")}


def test_processes_that_want_one_directory_fetch_it_once(
    s3_server: S3Server, tmp_path: Path
) -> None:
    url = s3_server.url()
    make(s3_server, url).write("models/1/weights", b"weights" * 10_000)
    address = f"{url.removeprefix('s3:/')}/models/1/weights"

    def fetch(_number: int) -> bytes:
        storage = make(s3_server, url)
        directory = storage.fetch_directory("models/1", tmp_path / "cache" / "1")
        return (directory / "weights").read_bytes()

    assert set(in_threads(4, fetch)) == {b"weights" * 10_000}
    assert s3_server.requests("GET", address) == 1


def test_a_complete_directory_needs_no_storage(s3_server: S3Server, tmp_path: Path) -> None:
    storage = make(s3_server)
    storage.write("models/1/weights", b"weights")
    first = storage.fetch_directory("models/1", tmp_path / "1")
    away = make(s3_server, aws_endpoint_url="http://127.0.0.1:1")
    with pytest.raises(Unavailable):
        away.check()
    assert away.fetch_directory("models/1", tmp_path / "1") == first


_DIE_FETCHING = """
import json, os, signal, sys
from pathlib import Path
from shared.settings import Settings
from shared.storage.opening import open_storage
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
storage = open_storage(Settings(_env_file=None, **json.loads(sys.argv[1])))
storage.fetch_directory("models/1", Path(sys.argv[2]))
"""


def test_what_a_killed_process_had_fetched_is_not_taken_for_complete(
    s3_server: S3Server, tmp_path: Path
) -> None:
    import json

    url, cache = s3_server.url(), tmp_path / "cache" / "1"
    storage = make(s3_server, url)
    for name in ("labels.txt", "weights"):
        storage.write(f"models/1/{name}", name.encode())
    settings = json.dumps({"storage_url": url, **s3_server.settings})
    done = subprocess.run(
        [sys.executable, "-c", _DIE_FETCHING, settings, str(cache)], cwd=ROOT, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert not cache.exists()
    assert any(cache.parent.rglob("labels.txt"))  # it had begun
    directory = storage.fetch_directory("models/1", cache)
    assert sorted(path.name for path in directory.iterdir()) == ["labels.txt", "weights"]
    assert [path.name for path in cache.parent.iterdir() if path.is_dir()] == ["1"]


def test_a_file_that_cannot_be_kept_is_told_as_that(s3_server: S3Server, tmp_path: Path) -> None:
    storage = make(s3_server)
    storage.write("models/1/weights", b"weights")
    (tmp_path / "file").write_bytes(b"in the way")
    with pytest.raises(Unavailable, match=r"Not a directory|File exists"):
        storage.fetch_directory("models/1", tmp_path / "file" / "1")

"""Objects in a bucket of S3, or of what speaks its protocol: MinIO, Ceph, R2, Garage."""

import fcntl
import html
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from shared.errors import ConfigurationError, ObjectMissing, Unavailable
from shared.storage.protocol import StoredObject

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ClientConfig, RetryConfig, S3Config, S3CredentialProvider

_CONNECT_SECONDS = 3.0
_RETRIES = 3
# A model has hundreds of megabytes. It goes in parts, and nobody waits for it at a page.
_PART_BYTES = 8 * 2**20
_PARTS_AT_ONCE = 4
_PATIENCE = 6  # how much longer a part may take than an image: several share the line

_CODE = re.compile(r"<Code>(.*?)</Code>", re.DOTALL)
_MESSAGE = re.compile(r"<Message>(.*?)</Message>", re.DOTALL)
_KIND = re.compile(r"kind: (Timeout|Connect),")
_ROLE = "/latest/api/token"  # the first thing asked of the machine for the credentials of its role


class S3Storage:
    """A prefix of a bucket. One S3Storage may be used by many threads, but not across a fork.

    Credentials: those in `config`; else, by obstore, the first that is there of
    AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN), a web identity
    (AWS_WEB_IDENTITY_TOKEN_FILE with AWS_ROLE_ARN), the role of a container
    (AWS_CONTAINER_CREDENTIALS_RELATIVE_URI, or ..._FULL_URI with
    AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE), the role of the machine (its metadata service).
    `~/.aws` is not read: `credentials` may be something that does.

    Addresses are path style (endpoint/bucket/name), which AWS and all others understand.

    Args:
        bucket: it must exist.
        prefix: what our names begin with there, without `/` at its ends; may be empty.
        config: what obstore shall not take from the environment.
        credentials: asked for keys instead.
        timeout_seconds: longest wait for one answer, an image sent or received included. With the
            retries of what failed at once, a call takes less than twice as long.

    Raises:
        ConfigurationError: The configuration can't be right, whatever the storage says.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str,
        *,
        config: "S3Config",
        credentials: "S3CredentialProvider | None" = None,
        timeout_seconds: float,
    ) -> None:
        self._url = f"s3://{bucket}/{prefix}".rstrip("/")
        timeout = timedelta(seconds=timeout_seconds)
        common: ClientConfig = {
            "connect_timeout": min(timeout, timedelta(seconds=_CONNECT_SECONDS))
        }
        if config.get("endpoint", "").startswith("http://"):
            common["allow_http"] = True  # whoever writes http:// means it
        retries: RetryConfig = {
            "max_retries": _RETRIES,
            "retry_timeout": timeout,
            "backoff": {"max_backoff": timedelta(seconds=1)},
        }

        def connect(options: "ClientConfig") -> S3Store:
            return S3Store(
                bucket,
                prefix=prefix or None,
                config=config,
                client_options=common | options,
                retry_config=retries,
                credential_provider=credentials,
            )

        try:
            self._objects = connect({"timeout": timeout})
        except BaseError as error:
            raise ConfigurationError(f"the storage {self._url}: {_first_line(error)}") from error
        self._connect = connect
        self._part_timeout = timeout * _PATIENCE

    @cached_property
    def _files(self) -> S3Store:
        """For files of models; web, which has none, never makes it."""
        return self._connect({"timeout": timedelta(days=1), "read_timeout": self._part_timeout})

    def begin(self, *, is_new: bool) -> None:
        """See `Storage.begin`. A bucket is there or is not: nothing else lies in its place."""

    def write(self, name: str, data: bytes) -> None:
        """See `Storage.write`; one request, which the bucket takes whole or not at all."""
        with self._asking("written"):
            obstore.put(self._objects, name, data, use_multipart=False)

    def write_file(self, name: str, path: Path) -> None:
        """See `Storage.write_file`.

        The parts of an upload that failed are removed; a process that is killed leaves them to the
        bucket's rule for unfinished multipart uploads.
        """
        with self._asking("written"):
            obstore.put(
                self._files, name, path, chunk_size=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE
            )

    def read(self, name: str) -> bytes:
        """See `Storage.read`."""
        with self._asking("read"):
            try:
                return bytes(obstore.get(self._objects, name).bytes())
            except FileNotFoundError as error:
                # Also raised where the bucket is gone, or where a proxy knows no such address.
                if _said(_CODE, error) == "NoSuchKey":
                    raise ObjectMissing(name) from error
                raise

    def fetch_directory(self, prefix: str, cache: Path) -> Path:
        """See `Storage.fetch_directory`.

        What is at `cache` is complete: it gets that name when it is. Processes that want the same
        wait for the one that fetches.
        """
        if cache.is_dir():
            return cache
        with self._asking("read"), _taking_turns(cache):
            if not cache.is_dir():
                unfinished = cache.with_name(f".unfinished-{cache.name}")
                shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
                try:
                    self._fetch(prefix, unfinished)
                    unfinished.rename(cache)
                except BaseException:
                    shutil.rmtree(unfinished, ignore_errors=True)
                    raise
        return cache

    def _fetch(self, prefix: str, directory: Path) -> None:
        found = [meta for page in obstore.list(self._files, prefix) for meta in page]
        if not found:
            raise ObjectMissing(prefix)
        for meta in found:
            path = directory / meta["path"].removeprefix(f"{prefix}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fetch_file(meta, path)

    def _fetch_file(self, meta: "ObjectMeta", path: Path) -> None:
        with path.open("xb") as file:
            for part in obstore.get(self._files, meta["path"]).stream(_PART_BYTES):
                file.write(part)
            if file.tell() != meta["size"]:
                raise Unavailable(f"the storage {self._url} gave only a part of {meta['path']}")
            file.flush()
            os.fsync(file.fileno())  # else a power cut could leave a short file that looks complete

    def delete(self, *names: str) -> None:
        """See `Storage.delete`; up to 1,000 in one request."""
        if names:
            with self._asking("written"):
                obstore.delete(self._objects, names)

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """See `Storage.list`; 1,000 in one request, asked for as they are wanted."""
        with self._asking("listed"):
            for page in obstore.list(self._objects, prefix):
                for meta in page:
                    yield StoredObject(meta["path"], meta["last_modified"])

    def check(self) -> None:
        """See `Storage.check`."""
        self.write("check", b"written by a readiness check")

    @contextmanager
    def _asking(self, participle: str) -> Iterator[None]:
        """Turn the many ways in which the storage, or the disk of a cache, fails into one."""
        try:
            yield
        except (BaseError, OSError) as error:
            reason = explain(error, self._objects.config.get("endpoint"))
            raise Unavailable(
                f"the storage {self._url} cannot be {participle}: {reason}"
            ) from error


def explain(error: Exception, endpoint: str | None = None) -> str:
    """What went wrong, in a sentence; obstore's own text has dozens of lines.

    Its errors tell no more by themselves: codes and kinds are only in that text.
    """
    text = str(error)
    code = _said(_CODE, error)
    if code is not None:
        return f"{_said(_MESSAGE, error) or 'refused'} ({code})"
    if _ROLE in text:
        return "there are no credentials: no AWS_ACCESS_KEY_ID, and no role of this machine"
    kind = _said(_KIND, error)
    if kind == "Timeout":
        return "it does not answer in time"
    if kind == "Connect":
        return f"no connection to {endpoint or 'AWS'}"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}"
    return _first_line(error)


def code_of(error: Exception) -> str | None:
    """S3's own word for what went wrong, such as `NoSuchKey`; None where it has not answered."""
    return _said(_CODE, error)


def _said(pattern: re.Pattern[str], error: Exception) -> str | None:
    """What the storage's answer says in an element, if it is one of S3's answers."""
    found = pattern.search(str(error))
    return None if found is None else html.unescape(found[1])


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]


@contextmanager
def _taking_turns(cache: Path) -> Iterator[None]:
    """One process or thread of this machine at a time; the lock ends with its process."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(cache.with_name(f".{cache.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)

"""Many generated pictures, some broken, some twice, and every kind of source made of them."""

import functools
import gzip
import http.server
import io
import random
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from obstore.store import S3Store
from PIL import Image

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")


@dataclass(frozen=True)
class Pictures:
    """Files by name, and the names of those that are broken."""

    files: dict[str, bytes]
    broken: frozenset[str]

    @property
    def distinct(self) -> int:
        """How many different contents those have that are not broken."""
        return len({data for name, data in self.files.items() if name not in self.broken})


def pictures(number: int, seed: int) -> Pictures:
    """So many pictures: 1 % broken (at least one), 5 % the same as another one."""
    dice = random.Random(seed)
    pixels = np.random.default_rng(seed)
    files: dict[str, bytes] = {}
    distinct: list[bytes] = []
    chosen = set(dice.sample(range(number), max(1, number // 100)))
    broken = set()
    for index in range(number):
        kind = FORMATS[index % len(FORMATS)]
        name = f"{index % 7}/{index:06}.{kind.lower()}"
        if index in chosen:
            broken.add(name)
        if index not in chosen and distinct and dice.random() < 0.05:
            data = dice.choice(distinct)
        else:
            file = io.BytesIO()
            Image.fromarray(pixels.integers(0, 256, (16, 16, 3), np.uint8)).save(file, kind)
            data = file.getvalue()
            if index in chosen:
                data = b"no picture %d" % index if index % 2 else data[: len(data) // 2]
            else:
                distinct.append(data)
        files[name] = data
    return Pictures(files, frozenset(broken))


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_tar_gz(path: Path, files: dict[str, bytes]) -> Path:
    with gzip.open(path, "wb", 1) as packed, tarfile.open(fileobj=packed, mode="w|") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def write_directory(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return path


def write_bucket(url: str, settings: dict[str, str], files: dict[str, bytes]) -> None:
    """Put the files below `s3://bucket/prefix`."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    store = S3Store(
        bucket,
        endpoint=settings["aws_endpoint_url"],
        region=settings["aws_region"],
        access_key_id=settings["aws_access_key_id"],
        secret_access_key=settings["aws_secret_access_key"],
        client_options={"allow_http": True},
    )
    for name, data in files.items():
        store.put(f"{prefix}/{name}", data)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


@contextmanager
def served(directory: Path) -> Iterator[str]:
    """A local web server of a directory; its address."""
    server = _Server(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(directory)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()

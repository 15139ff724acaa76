"""A form with files of any size and number, read as it comes: onto the disk, not into memory."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import BinaryIO

from flask import request
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from shared.errors import ProblemError, Unavailable
from shared.settings import Settings
from web.packing import Pack
from web.values import invalid

ARCHIVE = "archive"
IMAGES = ("image", "fileImage")  # the service's own name for the field, and the tutorial's
_CHUNK_BYTES = 64 * 1024
_MEMORY_BYTES = 512 * 1024  # of all that is no file
_FIELDS = 20
_ROOM_BYTES = 1024  # around each file of a form
_LEFT_SECONDS = 86_400  # what a killed process has left is removed after a day


@dataclass
class SpooledForm:
    """What a form has brought.

    Attributes:
        fields: The texts.
        images: The names of the images, in their order.
        pack: All of them, as a tar.
        archive: Its name and where it lies, if there was one.
    """

    pack: Pack
    fields: MultiDict[str, str] = field(default_factory=MultiDict)
    archive: tuple[str, Path] | None = None

    @property
    def images(self) -> list[str]:
        """The names of the images, in their order."""
        return self.pack.names


@contextmanager
def spooled_form(settings: Settings) -> Iterator[SpooledForm]:
    """The multipart form of the current request, on the disk for as long as it is looked at.

    A file without a name, as browsers send one where none was chosen, is left out.

    Raises:
        ProblemError: `bad_request`, `request_too_large` or `invalid_value`.
        Unavailable: The disk takes no more.
    """
    with _room(settings) as directory:
        with Pack(directory / "images.tar", settings.max_image_bytes) as pack:
            form = SpooledForm(pack)
            _read(form, directory, settings)
        yield form


@contextmanager
def spooled_body(settings: Settings) -> Iterator[Path]:
    """The body of the current request, on the disk for as long as it is looked at.

    Raises:
        ProblemError: `request_too_large`.
        Unavailable: The disk takes no more.
    """
    request.max_content_length = settings.max_source_bytes
    with _room(settings) as directory:
        path = directory / ARCHIVE
        try:
            with path.open("wb") as file:
                while data := request.stream.read(_CHUNK_BYTES):
                    file.write(data)
        except RequestEntityTooLarge as error:
            raise _too_much(settings) from error
        except OSError as error:
            raise Unavailable(f"the upload cannot be kept: {error}") from error
        yield path


@contextmanager
def _room(settings: Settings) -> Iterator[Path]:
    """A directory for the files of one request."""
    place = settings.data_dir / "uploads"
    try:
        place.mkdir(parents=True, exist_ok=True)
        _remove_left(place)
        directory = Path(mkdtemp(dir=place))
    except OSError as error:
        raise Unavailable(f"uploads cannot be kept: {error}") from error
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _read(form: SpooledForm, directory: Path, settings: Settings) -> None:
    most = settings.max_images_per_upload
    request.max_content_length = settings.max_source_bytes + (most + _FIELDS) * _ROOM_BYTES
    try:
        boundary = request.mimetype_params.get("boundary", "").encode("ascii")
        if not boundary:
            raise ValueError("no boundary")
        decoder = MultipartDecoder(boundary, _MEMORY_BYTES, max_parts=most + _FIELDS)
        with (directory / ARCHIVE).open("wb") as archive:
            _decode(decoder, form, archive)
        form.pack.close()
    except RequestEntityTooLarge as error:
        raise _too_much(settings) from error
    except ValueError as error:
        raise ProblemError("bad_request", "The form cannot be read.") from error
    except OSError as error:
        raise Unavailable(f"the upload cannot be kept: {error}") from error
    if len(form.images) > most:
        raise _too_much(settings)


def _decode(decoder: MultipartDecoder, form: SpooledForm, archive: BinaryIO) -> None:
    """Lead the parts of the form to where they belong."""
    texts = _Texts(form.fields)
    write: Callable[[bytes], object]
    write, end = _ignore, _end
    while not isinstance(event := decoder.next_event(), Epilogue):
        if isinstance(event, NeedData):
            decoder.receive_data(request.stream.read(_CHUNK_BYTES) or None)
        elif isinstance(event, Field):
            write, end = texts.begin(event.name), texts.end
        elif isinstance(event, File):
            write, end = _begin_file(event, form, archive)
        elif isinstance(event, Data):
            write(event.data)
            if not event.more_data:
                end()


def _begin_file(
    part: File, form: SpooledForm, archive: BinaryIO
) -> tuple[Callable[[bytes], object], Callable[[], None]]:
    if not part.filename:
        return _ignore, _end
    if part.name in IMAGES:
        form.pack.begin(part.filename)
        return form.pack.write, form.pack.end
    if part.name != ARCHIVE:
        raise invalid(
            part.name, "there is no such file field; an archive is in 'archive', images in 'image'"
        )
    if form.archive is not None:
        raise invalid(ARCHIVE, "exactly one file is taken")
    form.archive = part.filename, Path(archive.name)
    return archive.write, _end


def _too_much(settings: Settings) -> ProblemError:
    return ProblemError(
        "request_too_large",
        f"That is too much at once: at most {settings.max_source_bytes:,} bytes are taken, and "
        f"{settings.max_images_per_upload:,} images without an archive.",
    )


class _Texts:
    """The fields that are no files; they are short, all together."""

    def __init__(self, fields: MultiDict[str, str]) -> None:
        self._fields = fields
        self._room = _MEMORY_BYTES
        self._name, self._text = "", b""

    def begin(self, name: str) -> Callable[[bytes], None]:
        self._name, self._text = name, b""
        return self._write

    def _write(self, data: bytes) -> None:
        self._room -= len(data)
        if self._room < 0:
            raise RequestEntityTooLarge
        self._text += data

    def end(self) -> None:
        self._fields.add(self._name, self._text.decode("utf-8", "replace"))


def _ignore(_data: bytes) -> None:
    """Of a file input in which nothing was chosen."""


def _end() -> None:
    """Of what needs no end."""


def _remove_left(place: Path) -> None:
    old = time.time() - _LEFT_SECONDS
    for left in place.iterdir():
        try:
            if left.stat().st_mtime < old:
                shutil.rmtree(left, ignore_errors=True)
        except FileNotFoundError:
            continue

"""Single objects of buckets that the operator allows: read whole, or told why not."""

from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError

from shared.errors import ConfigurationError, Unavailable
from shared.settings import Settings
from shared.storage.opening import open_store
from shared.storage.s3 import code_of, explain
from worker.sources.limits import TooLarge
from worker.sources.patience import NotGiven
from worker.sources.protocol import EntryError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

PATIENCE = 6  # how much longer a whole image may take than the longest silence
NO_BUCKET = {"NoSuchBucket", "ContainerNotFound"}
_NOT_THIS_ONE = {"AccessDenied", "InvalidObjectState"}  # of one object: its rights, or an archive


class Bucket:
    """One bucket, opened when it is first wanted; for many threads.

    Args:
        settings: for keys, endpoint and limits.
        url: `s3://bucket`, without a key.
        whole_seconds: longest time of one object; without it, that of an image.
    """

    def __init__(self, settings: Settings, url: str, whole_seconds: float | None = None) -> None:
        self.url = url
        self._whole_seconds = whole_seconds or PATIENCE * settings.source_timeout_seconds
        self._settings = settings
        self._opened: ObjectStore | None = None

    @property
    def store(self) -> "ObjectStore":
        """The bucket, whole: keys are those in the bucket.

        Raises:
            Unavailable: The settings do not lead there; the operator may mend them.
        """
        if self._opened is None:
            try:
                self._opened = open_store(
                    self._settings,
                    self.url,
                    silence_seconds=self._settings.source_timeout_seconds,
                    whole_seconds=self._whole_seconds,
                )
            except ConfigurationError as error:
                raise Unavailable(str(error)) from error
        return self._opened

    def read(self, key: str, most: int) -> bytes:
        """The bytes of an object, if it has at most so many; a larger one is not read.

        Raises:
            EntryError: `source_missing`, `image_too_large`; `NotGiven`.
            Unavailable: The bucket cannot be asked.
        """
        store = self.store
        try:
            found = obstore.get(store, key)
            if found.meta["size"] > most:
                raise TooLarge(most)
            return bytes(found.bytes())
        except ValueError as error:
            raise EntryError("source_missing", "No object can have this key.") from error
        except (BaseError, OSError) as error:
            raise self.failure(error) from error

    def failure(self, error: Exception) -> EntryError | Unavailable:
        """What it means that a request for an object failed."""
        code = code_of(error)
        if isinstance(error, FileNotFoundError):
            what = f"bucket {self.url}" if code in NO_BUCKET else "object"
            return EntryError("source_missing", f"There is no such {what}.")
        reason = self.explain(error)
        if code in _NOT_THIS_ONE:
            detail = f"The bucket does not give it: {reason}."
            return NotGiven("source_missing", detail, self.url)
        return Unavailable(f"{self.url} cannot be read: {reason}")

    def explain(self, error: Exception) -> str:
        """What went wrong, in a sentence."""
        endpoint = self._settings.aws_endpoint_url if self.url.startswith("s3:") else self.url
        return explain(error, endpoint)

"""`classify` in a process whose clock is off: `python -m tests.chaos.campaign.skewed SECONDS …`.

Only this process's clock of the day: its database, and the time that passes, are as ever.
"""

import datetime
import sys
import time
import uuid
from typing import Any

import uuid_utils.compat


class _Kind(type):
    """Times that were made by others are times, too."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _real)


_real = datetime.datetime


def skew(seconds: float) -> None:
    """From now on it is so much later, for whoever imports a clock afterwards."""
    ahead = datetime.timedelta(seconds=seconds)
    real_time, real_time_ns = time.time, time.time_ns

    def new_id() -> uuid.UUID:
        return uuid.UUID(bytes=uuid_utils.uuid7(nanoseconds=time.time_ns()).bytes)

    class Skewed(_real, metaclass=_Kind):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return _real.now(tz) + ahead

        @classmethod
        def utcnow(cls) -> Any:
            return _real.now(datetime.UTC).replace(tzinfo=None) + ahead

    datetime.datetime = Skewed  # type: ignore[misc]
    time.time = lambda: real_time() + seconds
    time.time_ns = lambda: real_time_ns() + int(seconds * 1e9)
    uuid_utils.compat.uuid7 = new_id


if __name__ == "__main__":
    skew(float(sys.argv.pop(1)))
    from ops.cli import main

    main()

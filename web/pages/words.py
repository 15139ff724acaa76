"""Numbers and counts as people read them."""

from datetime import datetime


def percent(score: float) -> str:
    """A score as the tutorial prints it: `61.23%`."""
    return f"{score * 100:.2f}%"


def share(part: int, whole: int, *, step: int = 1) -> str:
    """Whole percents, never more than there are: `0 %`, `42 %`; `100 %` is all of it."""
    percents = 100 * part // whole if whole else 0
    return f"{percents - percents % step} %"


def megabytes(size_bytes: int) -> str:
    """A size in decimal megabytes, as the weights' size is commonly told: `528 MB`."""
    return f"{size_bytes / 1e6:,.0f} MB"


def duration(milliseconds: float) -> str:
    """`12 ms`, `1.4 s`, `31 s`, `3 min`."""
    if milliseconds < 1000:  # noqa: PLR2004 - units
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1000
    if seconds < 10:  # noqa: PLR2004 - beyond, tenths of a second say nothing
        return f"{seconds:.1f} s"
    if seconds < 90:  # noqa: PLR2004 - units
        return f"{seconds:.0f} s"
    return f"{seconds / 60:,.0f} min"


def time_of(moment: datetime, now: datetime) -> str:
    """`3 Nov, 09:05 UTC`; with the year unless it is this one."""
    year = "" if moment.year == now.year else f" {moment.year}"
    return f"{moment.day} {moment:%b}{year}, {moment:%H:%M} UTC"


def counted(count: int, singular: str, plural: str) -> str:
    """`1 image`, `1,000 images`."""
    return f"{count:,} {singular if count == 1 else plural}"


def age(seconds: float) -> str:
    """`3 s`, `5 min`, `2 h`, `3 days`."""
    for most, unit_seconds, unit in ((90, 1, "s"), (5400, 60, "min"), (172_800, 3600, "h")):
        if seconds < most:
            return f"{max(0, seconds) / unit_seconds:.0f} {unit}"
    return f"{seconds / 86_400:,.0f} days"


def size(size_bytes: int) -> str:
    """A size in decimal units: `512 bytes`, `1.4 kB`, `56 MB`, `1.2 TB`."""
    if size_bytes < 1000:  # noqa: PLR2004 - units
        return counted(size_bytes, "byte", "bytes")
    amount, unit = float(size_bytes), ""
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if amount < 1000:  # noqa: PLR2004 - units
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.1f} {unit}" if amount < 10 else f"{amount:,.0f} {unit}"  # noqa: PLR2004


def about(number: float) -> str:
    """A rate, to two digits: `0`, `< 0.01`, `0.34`, `7.2`, `1,234`."""
    if 0 < number < 0.01:  # noqa: PLR2004
        return "< 0.01"
    if number >= 100:  # noqa: PLR2004 - whole numbers from there on
        return f"{number:,.0f}"
    return f"{number:.2g}"

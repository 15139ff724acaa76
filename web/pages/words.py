"""Numbers and counts as people read them."""


def percent(score: float) -> str:
    """A score as the tutorial prints it: `61.23%`."""
    return f"{score * 100:.2f}%"


def megabytes(size_bytes: int) -> str:
    """A size in decimal megabytes, as the weights' size is commonly told: `528 MB`."""
    return f"{size_bytes / 1e6:,.0f} MB"


def duration(milliseconds: float) -> str:
    """`12 ms`, `1.4 s`, `3 min`."""
    if milliseconds < 1000:  # noqa: PLR2004 - units
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1000
    if seconds < 90:  # noqa: PLR2004 - beyond, tenths of a second say nothing
        return f"{seconds:.1f} s"
    return f"{seconds / 60:,.0f} min"


def counted(count: int, singular: str, plural: str) -> str:
    """`1 image`, `1,000 images`."""
    return f"{count:,} {singular if count == 1 else plural}"

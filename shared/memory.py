"""What the C library keeps of memory that was freed."""

import ctypes


def give_back_freed() -> None:
    """Give it to the system; nothing happens where the C library is not glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

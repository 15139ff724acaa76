"""What the C library keeps of memory that was freed."""

import ctypes

_M_ARENA_MAX = -8  # glibc's malloc.h


def share_arena() -> None:
    """Have all threads allocate from one arena; to be called before there are any threads.

    By default glibc gives each thread an arena of its own, and each grows to the most that its
    thread ever took: memory that rises for hours, and is never in use all at once. Python's threads
    allocate one after the other anyway. Nothing happens where the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def give_back_freed() -> None:
    """Give it to the system; nothing happens where the C library is not glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

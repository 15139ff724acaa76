"""What the C library does with the memory of another process."""

import psutil

_ARENA_BYTES = 64 * 2**20  # where glibc lets an arena begin, but for the first
_BY_CHANCE = 2  # something else may begin there


def share_one_arena(pid: int) -> bool:
    """Whether a process's threads allocate from one arena, not each from its own."""
    begins = [
        int(found.addr.split("-")[0], 16)
        for found in psutil.Process(pid).memory_maps(grouped=False)
        if found.path.startswith("[anon")
    ]
    return sum(begin % _ARENA_BYTES == 0 for begin in begins) <= _BY_CHANCE

"""Keeping freed memory in the process: what a decision frees, the next one asks for again."""

from __future__ import annotations

import ctypes
import platform

# Of glibc's malloc.h. Tensors of a round of candidates have a megabyte or two.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT, _SINGLE = 256 << 20, 32 << 20


def keep_heap() -> bool:
    """Tell glibc's allocator to keep up to 256 MiB of freed memory instead of giving it back at every call.

    Otherwise the kernel hands out and clears the same pages again for every round of candidates, which takes up to
    half of the time of a decision. It changes no result, only how much memory the process holds on to.

    Returns:
        Whether it could be told; elsewhere than on glibc nothing is done.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    tell = getattr(ctypes.CDLL(None), "mallopt", None)
    return tell is not None and all(
        tell(ctypes.c_int(what), ctypes.c_int(size)) == 1
        for what, size in ((_MMAP_THRESHOLD, _SINGLE), (_TRIM_THRESHOLD, _KEPT))
    )

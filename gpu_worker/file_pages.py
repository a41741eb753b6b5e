"""Gives back the memory of mapped files whose content was copied. It knows no model.

Weights are read by mapping their file: its pages count as this process's from the first look on, and go on to when a
weight has long been converted, quantized or packed. A page that nobody wrote is not lost when it is given back: who
looks again gets it from the file, which the system keeps in memory as long as there is room.
"""

import ctypes
import mmap
import re
from pathlib import Path

_SMAPS = Path("/proc/self/smaps")  # Linux; elsewhere nothing is given back
_MIN_BYTES = 1 << 20
# How torch maps a file: to be read and written, the process's own. Then the inode; and of the lines below it, what was
# written (copied for this process alone).
_MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) rw-p [0-9a-f]+ \S+ [1-9]\d* .*\n(?:[A-Z].*\n)*?Anonymous: +0 kB", re.M)


class MappedFiles:
    """The files that are mapped now and were not written to. While it is in use nobody may begin to."""

    def __init__(self) -> None:
        text = _SMAPS.read_text() if _SMAPS.is_file() else ""
        ranges = [(int(start, 16), int(end, 16)) for start, end in _MAPPING.findall(text)]
        self._ranges = [(start, end - start) for start, end in ranges if end - start >= _MIN_BYTES]
        self._libc = ctypes.CDLL(None, use_errno=True)

    def release(self) -> None:
        """Give their pages back: a matter of microseconds for those that were looked at since."""
        for start, num_bytes in self._ranges:
            self._libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(num_bytes), mmap.MADV_DONTNEED)

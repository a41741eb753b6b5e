"""What a process has in memory, as glibc and the kernel count it."""

import ctypes
import re
from pathlib import Path


class HeapInfo(ctypes.Structure):
    """What mallinfo2 of the C library returns."""

    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"
    )]  # fmt: skip


def count_heap_bytes() -> int:
    """In use by this process, of what malloc gives."""
    library = ctypes.CDLL(None)
    library.mallinfo2.restype = HeapInfo
    info = library.mallinfo2()
    return int(info.uordblks + info.hblkhd)


def read_status_bytes(name: str, pid: int | str = "self") -> int:
    """VmHWM (the peak), VmRSS, RssAnon or RssFile of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def count_resident_bytes(file: Path, pid: int | str = "self") -> int:
    """Of a file that a process has mapped."""
    text = Path(f"/proc/{pid}/smaps").read_text()
    sizes = re.findall(rf" {re.escape(str(file.resolve()))}\n(?:[A-Z].*\n)*?Rss: +(\d+) kB", text)
    assert sizes, f"{file} is not mapped"
    return sum(map(int, sizes)) * 1024

"""What is asked of the operating system, also where it is not Linux."""

import ctypes
import os
import resource
import sys
import threading
import time
from typing import NoReturn

_LOOK_SECONDS = 0.05
OUT_OF_MEMORY = 137  # as Linux ends a process that has taken too much


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_bytes() -> int:
    """Memory that a process may still take: of this machine, or, where that is not told, a lot."""
    try:
        with open("/proc/meminfo") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("MemAvailable")) * 1024
    except (OSError, StopIteration):  # not Linux
        return 1 << 40


def sync_data(descriptor: int) -> None:
    """Returns when a file's bytes are on the disk; its times need not be."""
    (os.fdatasync if hasattr(os, "fdatasync") else os.fsync)(descriptor)


def limit_memory(megabytes: int) -> None:
    """From now on this process may take so much beyond what it has: then it gets a MemoryError, or ends, but not the machine."""
    try:
        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
    except OSError:  # not Linux, where no limit of the address space holds: it is looked after
        over = peak_bytes() + megabytes * 1_000_000
        threading.Thread(target=_look_after, args=(over,), name="memory", daemon=True).start()
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = now + megabytes * 1_000_000
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def give_back() -> None:
    """What this process has freed goes back to the system: glibc's malloc keeps gigabytes of it between two stages otherwise."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def forget_pages(file: int) -> None:
    """What is read of a file from now on comes from the disk; on macOS it may come from memory."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)


def peak_bytes() -> int:
    """Bytes that were resident at most; macOS counts bytes, others KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _look_after(over: int) -> NoReturn:
    while peak_bytes() <= over:
        time.sleep(_LOOK_SECONDS)
    os._exit(OUT_OF_MEMORY)

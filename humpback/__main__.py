"""The start of `humpback` and of `python -m humpback`, before anything that takes time is imported."""

import os
import signal
import sys
from typing import NoReturn


def main() -> None:
    """The console script."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # and not ignored
        signal.signal(signal.SIGINT, _interrupted)  # until a command has begun, there is nothing to save
    use_huge_pages()
    from humpback import cli

    cli.main()


def use_huge_pages() -> None:
    """Starts the program anew, in the same process, with glibc's malloc asking for huge pages, which it does only when told so before
    the start. Nothing happens where that is said already or malloc is another one.

    Arrays as large as weights come and go all the time, and each is new memory, which the system fills with zeros page by page at its
    first touch: with pages of 4 KB a seventh of a training step's time on a CPU. To keep freed memory instead (mallopt) leaves holes
    that the next step does not fit into, and twice the memory in use.
    """
    libc, tunables = _libc(), os.environ.get("GLIBC_TUNABLES", "")
    if libc >= (2, 35) and "glibc.malloc.hugetlb" not in tunables:
        os.environ["GLIBC_TUNABLES"] = f"{tunables}:glibc.malloc.hugetlb=1".removeprefix(":")
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _interrupted(*_: object) -> NoReturn:
    os.write(2, b"\nhumpback: Ctrl-C\n")
    os._exit(130)  # errors.INTERRUPTED; an exception would come with a traceback from the midst of an import


def _libc() -> tuple[int, ...]:
    """The version of glibc, () where there is none."""
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
    except (AttributeError, ValueError, OSError):
        return ()
    return tuple(int(part) for part in version.split(".")) if name == "glibc" else ()


if __name__ == "__main__":
    main()

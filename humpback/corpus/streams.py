"""The decompressed bytes of a file as a window that moves forward: gzip, zstd and plain, told by content; nothing else is held.

FastWARC's gzip reader takes a cut file for a whole one and does not tell where in a one-member file it is, so gzip is read here.
"""

import errno
import io
import itertools
import os
import re
import zlib
from collections.abc import Iterator

from etils import epath
from fastwarc.stream_io import ZstdReader

from humpback import storage

_READ_BYTES = 1 << 16
_WINDOW_BYTES = 1 << 18  # decompressed at a time
_GZIP = b"\x1f\x8b\x08"
_ZSTD = re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18")  # a frame, or one that is to be skipped (a dictionary)
_BOMB_BYTES = 1 << 28  # a stretch of so many bytes
_BOMB_RATIO = 200  # that come from so many times fewer is no text: zeros reach 1,000 in gzip

BREAK = b"\r\n\r\n"  # stands where damage was left out


class Stream:
    """`window` holds the decompressed bytes from `start` on, as many as `fill` was asked for or the file has.

    `fault` says why the bytes end before the file's end: "truncated", "damaged", "unreadable", "too large" (a bomb), or "" if they do not.
    Where a damaged gzip member is followed by a sound one, `BREAK` stands for what is lost, and its place is in `breaks` until `broken`
    was asked about it. OSError when the file cannot be opened, or a bucket fails while it is read.
    """

    def __init__(self, path: storage.PathLike) -> None:
        self.window = bytearray()
        self.start = self.begun = 0
        self.fault = ""
        self.breaks: list[int] = []
        self._remote = "://" in os.fspath(path)
        if not self._remote and os.path.exists(path) and not os.path.isfile(path):  # to open a pipe would wait for its other end
            raise OSError(errno.EINVAL, "is a pipe, a socket, a device or a folder", os.fspath(path))
        self._file = epath.Path(path).open("rb")
        self._failed: OSError | None = None
        self._members: dict[int, int] = {}  # where a gzip member begins: decompressed → in the file
        self._read_bytes = self._stretch = self._stretch_read = 0
        self._more = self._decompressed()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def fill(self, size: int) -> int:
        """Makes the window hold `size` bytes, or all to the end of the file; returns how many it holds."""
        while len(self.window) < size and (chunk := next(self._more, b"")):
            self.window += chunk
            self._stretch += len(chunk)
            if self._stretch > _BOMB_BYTES:
                if self._stretch > _BOMB_RATIO * (self._read_bytes - self._stretch_read):
                    self.fault, self._more = "too large", iter(())
                self._stretch, self._stretch_read = 0, self._read_bytes
        return len(self.window)

    def advance(self, size: int) -> None:
        """Drops the window's first `size` bytes."""
        del self.window[:size]
        self.start += size

    def skip_to(self, pattern: re.Pattern[bytes], keep: int) -> None:
        """Advances to where `pattern` first matches to, looking at no more than `keep` bytes; to the end of the file if it does not."""
        while not (match := pattern.search(self.window)):
            self.advance(max(0, len(self.window) - keep))
            held = len(self.window)
            if self.fill(held + 1) == held:
                self.advance(held)
                return
        self.advance(match.end())

    def begin(self) -> None:
        """A record begins at `start`."""
        self.begun = self.start
        while self._members and next(iter(self._members)) < self.begun:
            del self._members[next(iter(self._members))]

    def file_range(self) -> tuple[int, int]:
        """The bytes of the file that hold the record (`begun` to `start`) if these are whole gzip members, else of what is decompressed."""
        if self.begun in self._members and self.start in self._members:
            return self._members[self.begun], self._members[self.start]
        return self.begun, self.start

    def broken(self, end: int) -> bool:
        """Whether something was lost between `begun` and `end`; then this is told."""
        count = len(self.breaks)
        self.breaks = [place for place in self.breaks if not self.begun < place < end]
        return len(self.breaks) < count

    def _read(self) -> bytes:
        try:
            data = self._file.read(_READ_BYTES)
        except OSError as error:
            self._failed = error
            raise
        self._read_bytes += len(data)
        return data

    def _decompressed(self) -> Iterator[bytes]:
        """The file in chunks; `fault` is set where they end too early."""
        try:
            head = self._read()
            if head.startswith(_GZIP):
                yield from self._gunzip(head)
            elif _ZSTD.match(head):
                yield from self._unzstd(head)
            else:
                while head:
                    yield head
                    head = self._read()
        except OSError as error:
            if error is not self._failed:
                self.fault = "truncated" if "incomplete frame" in str(error) else "damaged"
            elif self._remote:  # the network's failure, not the file's
                raise
            else:
                self.fault = "unreadable"

    def _unzstd(self, head: bytes) -> Iterator[bytes]:
        reader = ZstdReader(_Readable(itertools.chain((head,), iter(self._read, b""))))
        while chunk := reader.read(_READ_BYTES):  # what is decompressed in a call that fails is lost
            yield chunk

    def _gunzip(self, data: bytes) -> Iterator[bytes]:
        place = size = 0  # of `data` in the file; of what is decompressed
        while True:
            if len(data) < len(_GZIP):
                data += self._read()
            place, data = place + len(data), data.lstrip(b"\0")  # zeros fill a tape's last block
            place -= len(data)
            self._members[size] = place
            if not data:
                if not (data := self._read()):
                    return
                continue
            member = zlib.decompressobj(wbits=31)
            try:
                while not member.eof:
                    if not (data or (data := self._read())):
                        self.fault = "truncated"
                        return
                    chunk = member.decompress(data, _WINDOW_BYTES)
                    rest = member.unused_data if member.eof else member.unconsumed_tail
                    place, data, size = place + len(data) - len(rest), rest, size + len(chunk)
                    if chunk:
                        yield chunk
            except zlib.error:
                place, data = self._next_member(place, data)
                if not data:
                    self.fault = "damaged"
                    return
                self.breaks.append(size)
                size += len(BREAK)
                yield BREAK

    def _next_member(self, place: int, data: bytes) -> tuple[int, bytes]:
        """Where the file looks like a gzip member again after the first byte of `data`, and the bytes from there; none if nowhere."""
        at = data.find(_GZIP, 1)
        while at < 0:
            if not (more := self._read()):
                return place, b""
            keep = len(_GZIP) - 1
            place, data = place + len(data[:-keep]), data[-keep:] + more
            at = data.find(_GZIP)
        return place + at, data[at:]


class _Readable:
    """Chunks as a file that can only be read on."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._rest, self._place = chunks, b"", 0

    def tell(self) -> int:
        return self._place

    def read(self, size: int = -1) -> bytes:
        self._rest = self._rest or next(self._chunks, b"")
        size = len(self._rest) if size < 0 else size
        data, self._rest = self._rest[:size], self._rest[size:]
        self._place += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        raise io.UnsupportedOperation("it can only be read on")

    def close(self) -> None:
        pass

"""A file's decompressed bytes: windows, gzip members, damage, bombs."""

import gzip
import pathlib
import random
import re

import pytest

from humpback.corpus.streams import BREAK, Stream
from tests.corpus import warcs

LETTERS = random.Random(0)
PARTS = [bytes(LETTERS.choices(b"abcdef \n", k=LETTERS.randrange(60_000))) for _ in range(20)] + [b"", b"x"]
WHOLE = b"".join(PARTS)
FILES = {
    "plain": WHOLE, "gzip": gzip.compress(WHOLE), "members": warcs.gzipped(PARTS), "zstd": warcs.zstd(WHOLE),
    "frames": b"".join(map(warcs.zstd, PARTS)), "padded": warcs.gzipped(PARTS) + bytes(300_000),
}  # fmt: skip


def opened(folder: pathlib.Path, data: bytes) -> Stream:
    (folder / "x").write_bytes(data)
    return Stream(folder / "x")


def rest(stream: Stream) -> bytes:
    out = b""
    while stream.fill(1000):
        out += stream.window
        stream.advance(len(stream.window))
    return out


@pytest.mark.parametrize("name", FILES)
def test_windows(tmp_path: pathlib.Path, name: str) -> None:
    with opened(tmp_path, FILES[name]) as stream:
        out = b""
        while held := stream.fill(70_000):
            assert held >= 70_000 or len(out) + held == len(WHOLE)
            assert stream.start == len(out)
            out += stream.window[:12_345]
            stream.advance(min(12_345, held))
        assert (out, stream.fault) == (WHOLE, "")


@pytest.mark.parametrize("name", ["gzip", "members", "zstd", "frames"])
def test_a_cut_is_told(tmp_path: pathlib.Path, name: str) -> None:
    for cut in (1, 8, 9, 1_000, len(FILES[name]) - 20):
        with opened(tmp_path, FILES[name][:-cut]) as stream:
            assert WHOLE.startswith(rest(stream)) and stream.fault == "truncated"


def test_what_follows_damage_is_found(tmp_path: pathlib.Path) -> None:
    for which, place in ((0, 12), (7, 300), (19, -6)):
        members = [bytearray(gzip.compress(part)) for part in PARTS]
        members[which][place] ^= 0x55
        with opened(tmp_path, b"".join(members)) as stream:
            got = rest(stream)
        before, after = b"".join(PARTS[:which]), b"".join(PARTS[which + 1 :])
        assert got.startswith(before) and got.endswith(BREAK + after) and not stream.fault
        assert len(stream.breaks) == 1
        for begun, end, lost in ((0, len(before), 0), (len(got) - len(after), len(got), 0), (len(before) - 1, len(got), 1)):
            stream.begun = begun
            assert stream.broken(end) == bool(lost) and len(stream.breaks) == 1 - lost
    with opened(tmp_path, FILES["members"] + b"garbage") as stream:
        assert (rest(stream), stream.fault) == (WHOLE, "damaged")


def test_ranges_of_the_file(tmp_path: pathlib.Path) -> None:
    members = [gzip.compress(part) for part in (b"a" * 10, b"b" * 20, b"c" * 30)]
    ends = [0, *(sum(map(len, members[: count + 1])) for count in range(3))]
    for takes, held in (((10, 20, 30), (0, 1, 2, 3)), ((10, 50), (0, 1, 3)), ((5, 5, 20, 30), (None, None, 1, 2, 3))):
        with opened(tmp_path, b"".join(members)) as stream:
            for number, take in enumerate(takes):
                stream.fill(take)
                stream.begin()
                stream.advance(take)
                stream.fill(1)
                whole = held[number] is not None
                expected = (ends[held[number]], ends[held[number + 1]]) if whole else (stream.begun, stream.begun + take)
                assert stream.file_range() == expected
    with opened(tmp_path, b"a" * 60) as stream:
        stream.fill(60)
        stream.advance(60)
        assert stream.file_range() == (0, 60)


def test_a_bomb_ends_the_stream(tmp_path: pathlib.Path) -> None:
    zeros = gzip.compress(bytes(100_000_000))
    with opened(tmp_path, zeros * 20) as stream:
        read = 0
        while held := stream.fill(1_000_000):
            stream.advance(held)
            read += held
        assert stream.fault == "too large" and read < 300_000_000


def test_a_bucket_that_fails_is_no_fault_of_the_file(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("plain", "members", "zstd"):
        for remote in (False, True):
            with opened(tmp_path, FILES[name]) as stream:
                monkeypatch.setattr(stream, "_remote", remote)
                monkeypatch.setattr(stream, "_file", Failing())
                if remote:
                    with pytest.raises(OSError, match="connection"):
                        rest(stream)
                else:
                    assert rest(stream) == b"" and stream.fault == "unreadable"


class Failing:
    def read(self, size: int) -> bytes:
        raise OSError("connection lost")

    def close(self) -> None:
        pass


def test_skipping(tmp_path: pathlib.Path) -> None:
    tiny = warcs.gzipped([bytes([letter]) for letter in b"some words and then END of it"])  # a byte a member
    for data in (b"some words and then END of it", tiny, b"x" * 3_000_000 + b"END of it"):
        with opened(tmp_path, data) as stream:
            stream.skip_to(re.compile(b"END"), 3)
            assert rest(stream) == b" of it"
            stream.skip_to(re.compile(b"END"), 3)
            assert not stream.window and not stream.fault

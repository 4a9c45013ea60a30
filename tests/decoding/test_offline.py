import pytest

from humpback.decoding import offline
from humpback.records import Candidate, Segment, read_shards


def segment(number: int) -> Segment:
    return Segment(f"{number:016x}", "text", "h", ("h",), "u", "s", 0, 1)


def candidate(item: Segment) -> Candidate:
    return Candidate(item.id, item, f"instruction {item.id}", "", "m", 0)


class Killed(Exception):
    """Stands for the end of the process."""


def test_work_goes_on_where_it_stopped_and_every_item_comes_once(tmp_path, monkeypatch):
    monkeypatch.setattr(offline, "PART_SECONDS", -1)  # publish after every record
    items, served = [segment(i) for i in range(10)], []

    def serve(todo, stop_after):
        for number, item in enumerate(reversed(todo)):
            if number == stop_after:
                raise Killed
            served.append(item.id)
            yield candidate(item), 7

    for stop_after in (0, 3, 4):
        parts = offline.Parts(tmp_path / "parts", Candidate)
        with pytest.raises(Killed):
            offline.finish(parts, items, lambda t, n=stop_after: serve(t, n), label="x", metrics=print)
    parts = offline.Parts(tmp_path / "parts", Candidate)
    assert len(parts.done) == 7
    assert offline.finish(parts, items, lambda t: serve(t, None), label="x", metrics=print) == 21
    assert sorted(served) == [item.id for item in items]
    parts.merge(tmp_path, "candidates")
    assert list(read_shards(tmp_path, "candidates", Candidate)) == [candidate(item) for item in items]


def test_merging_again_after_a_kill_gives_the_same_files(tmp_path):
    parts = offline.Parts(tmp_path / "parts", Candidate)
    for number in (3, 1, 2):
        parts.add(candidate(segment(number)))
    names = parts.merge(tmp_path, "candidates")
    again = offline.Parts(tmp_path / "parts", Candidate)
    assert again.merge(tmp_path, "candidates") == names
    assert [c.id for c in read_shards(tmp_path, "candidates", Candidate)] == [f"{i:016x}" for i in (1, 2, 3)]


def test_a_server_that_forgets_an_item_is_found(tmp_path):
    items, parts = [segment(i) for i in range(3)], offline.Parts(tmp_path / "parts", Candidate)
    with pytest.raises(RuntimeError, match="no record came for 1 of 3 items, the first is 0000000000000002"):
        offline.finish(parts, items, lambda todo: ((candidate(i), 1) for i in todo[:2]), label="x", metrics=print)

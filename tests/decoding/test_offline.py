"""The run over a record file, with an engine that answers at once; with real ones and several processes: test_offline_pod.py."""

import json
import shutil
import types

import numpy as np
import pytest
from msgspec import structs

from humpback import distributed, keys, records
from humpback.decoding import offline, parts
from humpback.decoding.engine import NotFinite, Result, Stats
from humpback.decoding.parts import Inputs, PartName
from humpback.errors import UserError
from humpback.records import Candidate, Segment, read_shards


def segment(number: int, text: str = "text") -> Segment:
    return Segment(f"{number:016x}", text, "h", ("h",), "u", "s", 0, 1)


class Killed(Exception):
    """Stands for the end of the process."""


class Engine:
    """Answers with the request's key; the last of what it holds comes first. Dies after `stop_after` answers."""

    slots, longest_visit, classes = 4, 60.0, ("all",)

    def __init__(self, stop_after=None):
        self.stop_after, self.stats, self.requests, self.most = stop_after, Stats(), [], 0

    def fits(self, ids, max_new, start=0):
        return 0 < len(ids) <= 100

    def class_of(self, ids, max_new):
        return 0

    def generate(self, requests, sampler, stop_ids, on_visit):
        requests, held, done = iter(requests), [], 0
        while True:
            for request in requests:
                held.append(request)
                self.requests.append(request)
                if len(held) == self.slots:
                    break
            if not held:
                return
            for _ in range(min(3, len(held))):
                if done == self.stop_after:
                    raise Killed
                request, done = held.pop(), done + 1
                yield Result(request.id, tuple(int(k) for k in request.key), (-1.0,), "stop")
            on_visit()


def task(**more) -> offline.Task:
    def make(item, answers):
        return Candidate(item.id, item, " ".join(str(answer.ids) for answer in answers), "", "m", 0)

    named = {"encode": lambda item: np.ones(len(item.text), np.int32), "make": make, "max_new": 5, "seed": 3, "purpose": "test"}
    return offline.Task(**{**named, **more})


def write_inputs(folder, items) -> Inputs:
    path = folder / "in.jsonl"
    path.write_bytes(b"".join(map(records.to_json, items)))
    return Inputs([path], lambda line, where: records.from_json(Segment, line, where))


def run(folder, inputs, engine, work=None, replica=(0, 1), seconds=-1.0, metrics=lambda row: None) -> offline.Done:
    layout = distributed.Replica(*replica, devices=(), is_first=True)
    return offline.run(engine, work or task(), inputs, offline.Output(folder, "x", "x", metrics), replica=layout, seconds=seconds)


def part_names(folder) -> list[PartName]:
    return [PartName.parse(path.name) for path in sorted(folder.glob("parts/*"))]


ITEMS = [segment(i * 7919 % 1000) for i in range(40)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run(folder, write_inputs(folder, ITEMS), Engine()).counts == {"in": 40, "out": 40, "rejects": 0}
    return shards(folder)


def shards(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*-of-*.jsonl")}


def test_each_record_comes_once_in_the_order_of_the_input_with_its_own_draws(undisturbed):
    made = [json.loads(line) for line in undisturbed["x-00000-of-00001.jsonl"].splitlines()]
    assert [row["id"] for row in made] == [item.id for item in ITEMS]
    expected = keys.record_keys(3, "test", [item.id for item in ITEMS])
    assert [row["instruction"] for row in made] == [str(tuple(int(k) for k in key)) for key in expected]


@pytest.mark.parametrize("stops", [[0], [5, 0, 7], [3, 3, 3, 3]])
def test_work_goes_on_where_it_stopped(tmp_path, undisturbed, stops):
    inputs = write_inputs(tmp_path, ITEMS)
    for stop_after in stops:
        with pytest.raises(Killed):
            run(tmp_path, inputs, Engine(stop_after))
    assert sum(name.records for name in part_names(tmp_path)) == sum(stops)
    last = Engine()
    run(tmp_path, inputs, last)
    assert len(last.requests) == 40 - sum(stops)
    assert shards(tmp_path) == undisturbed


def test_other_numbers_of_replicas_share_what_is_left(tmp_path, undisturbed):
    """Three of three die, then one of two, then one alone does the rest; the replicas are made one after another here."""
    inputs = write_inputs(tmp_path, ITEMS)
    for index in range(3):
        with pytest.raises(Killed):
            run(tmp_path, inputs, Engine(4), replica=(index, 3))
    with pytest.raises(Killed):
        run(tmp_path, inputs, Engine(4), replica=(1, 2))
    names = part_names(tmp_path)
    assert {name.replica for name in names} == {0, 1, 2} and sum(name.records for name in names) == 16
    for name in names[:4]:  # a replica deals by the number
        for line in (tmp_path / "parts" / str(name)).read_text().splitlines()[1:]:
            assert int(json.loads(line)["id"], 16) % 3 == name.replica
    last = Engine()
    run(tmp_path, inputs, last)
    assert len(last.requests) == 40 - 16 and shards(tmp_path) == undisturbed


def test_a_record_that_two_parts_have_comes_once(tmp_path, undisturbed):
    """As when a process that was taken for dead went on for a while."""
    inputs = write_inputs(tmp_path, ITEMS)
    with pytest.raises(Killed):
        run(tmp_path, inputs, Engine(6))
    for name in part_names(tmp_path):
        shutil.copy(tmp_path / "parts" / str(name), tmp_path / "parts" / str(name._replace(replica=5)))
    assert run(tmp_path, inputs, Engine()).counts == {"in": 40, "out": 40, "rejects": 0}
    assert shards(tmp_path) == undisturbed


def test_merging_again_after_a_kill_gives_the_same_files_and_asks_nothing(tmp_path, undisturbed):
    inputs = write_inputs(tmp_path, ITEMS)
    first = run(tmp_path, inputs, Engine())
    (tmp_path / "rejects-00000-of-00001.jsonl").unlink()
    engine = Engine()
    done = run(tmp_path, inputs, engine)
    assert engine.requests == [] and shards(tmp_path) == undisturbed
    assert done.files == ["x-00000-of-00001.jsonl", "rejects-00000-of-00001.jsonl"]
    assert done.tokens == first.tokens > 0  # of both calls


@pytest.mark.parametrize("stop_after", [None, 3, 9])
def test_records_are_served_class_after_class(tmp_path, stop_after):
    """What is written does not tell, whatever was killed; of each record every sample comes."""

    class InTwo(Engine):
        classes = ("short", "long")

        def class_of(self, ids, max_new):
            assert max_new == 5
            return int(len(ids) > 4)

    inputs = write_inputs(tmp_path, [segment(number, "text" + "s" * (number % 3 % 2)) for number in range(1, 17)])
    plain = Engine()
    run(tmp_path / "plain", inputs, plain, task(samples=2))
    if stop_after:
        with pytest.raises(Killed):
            run(tmp_path / "two", inputs, InTwo(stop_after), task(samples=2))
    engine = InTwo()
    run(tmp_path / "two", inputs, engine, task(samples=2))
    lengths = [len(request.ids) for request in engine.requests]
    assert lengths == sorted(lengths) and set(lengths) == {4, 5} and (stop_after or len(lengths) == 32)
    assert shards(tmp_path / "two") == shards(tmp_path / "plain")
    if not stop_after:
        both = [{(r.id, tuple(r.key)) for r in each.requests} for each in (plain, engine)]
        assert both[0] == both[1] and len(both[0]) == 32


def test_many_shards_and_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "RECORDS_PER_SHARD", 15)
    monkeypatch.setattr(parts, "_MERGED_AT_ONCE", 4)
    done = run(tmp_path, write_inputs(tmp_path, ITEMS), Engine())
    assert done.files[:3] == [f"x-0000{i}-of-00003.jsonl" for i in range(3)]
    assert [c.id for c in read_shards(tmp_path, "x", Candidate)] == [item.id for item in ITEMS]


@pytest.mark.parametrize("stop_after", [None, 1])
def test_what_cannot_be_served_is_rejected_with_its_reason_and_place(tmp_path, stop_after):
    items = [segment(1), segment(2, "x" * 101), segment(1, "again"), segment(3, ""), structs.replace(segment(4), id="four"), segment(5)]
    inputs = write_inputs(tmp_path, items)
    if stop_after:
        with pytest.raises(Killed):
            run(tmp_path, inputs, Engine(stop_after))
    done = run(tmp_path, inputs, Engine())
    assert done.counts == {"in": 6, "out": 2, "rejects": 4}
    assert done.rejected == {f"rejected: {reason}": 1 for reason in ("bad id", "duplicate id", "empty", "prompt too long")}
    assert [c.segment for c in read_shards(tmp_path, "x", Candidate)] == [items[0], items[5]]
    rejects = [json.loads(line) for line in (tmp_path / "rejects-00000-of-00001.jsonl").read_text().splitlines()]
    assert rejects == [
        {"id": items[at].id, "reason": reason, "where": f"{tmp_path}/in.jsonl:{at + 1}", "position": at}
        for at, reason in [(1, "prompt too long"), (2, "duplicate id"), (3, "empty"), (4, "bad id")]
    ]


def test_nothing_in_nothing_out(tmp_path):
    assert run(tmp_path, write_inputs(tmp_path, []), Engine()).counts == {"in": 0, "out": 0, "rejects": 0}
    assert shards(tmp_path) == {"x-00000-of-00001.jsonl": b"", "rejects-00000-of-00001.jsonl": b""}


def test_samples_are_draws_of_their_own_and_come_in_order(tmp_path):
    run(tmp_path, write_inputs(tmp_path, ITEMS[:5]), Engine(), task(samples=3))
    made = list(read_shards(tmp_path, "x", Candidate))
    ids = [item.id for item in ITEMS[:5]]
    draws = [keys.record_keys(3, "test", ids, sample) for sample in range(3)]
    for row, record in enumerate(made):
        assert record.instruction == " ".join(str(tuple(int(k) for k in draws[sample][row])) for sample in range(3))


def test_what_need_not_be_asked_is_made_without_an_answer(tmp_path):
    engine = Engine()
    run(tmp_path, write_inputs(tmp_path, ITEMS), engine, task(asks=lambda item: int(item.id, 16) % 2 == 0))
    made = list(read_shards(tmp_path, "x", Candidate))
    assert all(bool(record.instruction) == (int(record.id, 16) % 2 == 0) for record in made) and len(engine.requests) < 40 == len(made)


def test_an_engine_that_forgets_a_record_is_found(tmp_path):
    class Forgetful(Engine):
        def generate(self, *arguments, **named):
            yield from list(super().generate(*arguments, **named))[:-1]

    with pytest.raises(RuntimeError, match=r"no answer came for 1 records, the first is .*in.jsonl:\d+, id 0"):
        run(tmp_path, write_inputs(tmp_path, ITEMS), Forgetful())


def test_in_must_be_out_and_rejects(tmp_path):
    def make(item, answers):  # one record under another's id
        return Candidate(ITEMS[0 if item == ITEMS[7] else ITEMS.index(item)].id, item, "", "", "m", 0)

    with pytest.raises(RuntimeError, match=r"40 in, but 39 out and 0 rejects; nothing came for 1, the first is .*in.jsonl:8, id 0"):
        run(tmp_path, write_inputs(tmp_path, ITEMS), Engine(), task(make=make))


def test_finished_records_are_published_even_when_no_other_comes(tmp_path, monkeypatch):
    """The engine's visits are enough: a kill costs `seconds`, however long the other rows take."""
    clock = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(parts.time, "monotonic", lambda: clock.now)

    class Slow(Engine):
        def generate(self, requests, sampler, stop_ids, on_visit):
            first = next(iter(requests))
            yield Result(first.id, (1, 2), (-1.0,), "stop")
            assert part_names(tmp_path) == []
            clock.now = 11.0
            on_visit()
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path, write_inputs(tmp_path, ITEMS), Slow(), seconds=10)
    assert [str(name) for name in part_names(tmp_path)] == ["made-0000-0000-000000-1-4-1.jsonl"]


def test_requests_are_made_only_as_the_engine_takes_them(tmp_path):
    """Nothing but what is in flight is held."""
    held = []

    class Watched(Engine):
        def generate(self, requests, *arguments, **named):
            flights = requests.gi_frame.f_locals["self"]._flights
            for result in super().generate(requests, *arguments, **named):
                held.append(len(flights))
                yield result

    run(tmp_path, write_inputs(tmp_path, ITEMS), Watched())
    assert max(held) <= 2 * Engine.slots


def test_progress_counts_all_replicas_from_the_parts_names(tmp_path):
    inputs, rows = write_inputs(tmp_path, ITEMS), []
    layout = distributed.Replica(1, 2, (), True)
    parts = offline.Parts(tmp_path / "parts", inputs, layout, -1.0)
    mine = [at for at in range(40) if inputs.numbers[at] % 2 == 1]
    for at in mine:
        parts.add(at, Candidate(ITEMS[at].id, ITEMS[at], "", "", "m", 0), 10, 1)
    parts.settle()
    run(tmp_path, inputs, Engine(), replica=(0, 2), metrics=rows.append)
    assert rows[-1]["records"] == rows[-1]["total"] == 40 and rows[-1]["eta_seconds"] == 0
    seconds = rows[-1]["seconds"]
    assert rows[-1]["records_per_second"] * seconds == pytest.approx(40 - len(mine))  # of this call
    assert rows[-1]["prompt_tokens_per_second"] * seconds == pytest.approx(4 * (40 - len(mine)))
    assert rows[-1]["output_tokens_per_second"] * seconds == pytest.approx(40 - len(mine))


def test_a_malformed_line_is_named(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(records.to_json(segment(1)) + b"{\n")
    with pytest.raises(UserError, match=r"in.jsonl:2: not a Segment record"):
        Inputs([tmp_path / "in.jsonl"], lambda line, where: records.from_json(Segment, line, where))


def test_a_process_parses_its_own_records_alone(tmp_path):
    inputs = write_inputs(tmp_path, ITEMS)
    parsed: list[str] = []

    def parse(line: str, where: str) -> Segment:
        parsed.append(where)
        return records.from_json(Segment, line, where)

    mine = Inputs([tmp_path / "in.jsonl"], parse, id_of=records.id_of)
    assert not parsed and mine.numbers.tolist() == inputs.numbers.tolist()
    wanted = np.arange(len(ITEMS)) % 8 == 3
    assert [(position, record) for position, _, record in mine.of(wanted)] == [(at, ITEMS[at]) for at in np.flatnonzero(wanted)]
    assert len(parsed) == wanted.sum()


def test_a_model_that_gives_no_numbers_ends_the_run_with_the_record(tmp_path):
    """What was made before is on disk."""

    class Broken(Engine):
        def generate(self, requests, sampler, stop_ids, on_visit):
            for number, request in enumerate(requests):
                if number == 2:
                    raise NotFinite(request.id, 4)
                yield Result(request.id, (1,), (-1.0,), "stop")

    items = [segment(number) for number in range(1, 6)]
    inputs, third = write_inputs(tmp_path, items), items[2].id
    with pytest.raises(NotFinite, match=rf"in\.jsonl:3, id {third}: the logits for token 4 of its answer are not finite"):
        run(tmp_path / "out", inputs, Broken(), seconds=1e9)
    assert sum(PartName.parse(path.name).records for path in (tmp_path / "out" / "parts").glob("made-*")) == 2

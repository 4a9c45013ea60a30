"""Serving records for a stage: the classes of rows that it was begun with hold when it goes on."""

import pytest
from etils import epath

from humpback import config, records, storage
from humpback.decoding import offline, serving
from humpback.stages.directory import Stage
from tests.decoding import test_offline
from tests.decoding.test_offline import ITEMS, Killed, task, write_inputs

NAME = f"{serving.CLASSES}.x"


class Engine(test_offline.Engine):
    """Finds other classes at each call, but keeps to those that it is told."""

    chosen, most_classes = (64, 128), 4

    def expect(self, prompts, all_of_them, each, max_new, limits):
        self.expected = (len(list(prompts)), all_of_them, each, max_new, limits)
        self.classes = ()
        return self.chosen if limits is None else tuple(limits)

    def warm_up(self, sampler, stops):
        return 0

    def unload(self):
        pass


def serve(folder, engine, classes=0):
    stage = Stage(epath.Path(folder), {"a": 1}, {"decoding.slots": 4})
    inputs = write_inputs(folder.parent, ITEMS)
    output = offline.Output(stage.path, "x", "x", stage.metrics, stage)
    done = serving.serve(engine, task(samples=3), inputs, output, config.Decoding(publish_seconds=0, classes=classes))
    stage.finish(counts=done.counts, files=done.files)


def test_classes_are_found_once_and_hold_for_a_resume(tmp_path):
    with pytest.raises(Killed):
        serve(tmp_path / "stage", Engine(stop_after=20))
    assert storage.read_json(epath.Path(tmp_path / "stage" / "found-00000.json")) == {NAME: [64, 128]}
    engine = Engine()
    engine.chosen = (32,)
    serve(tmp_path / "stage", engine)
    assert engine.expected == (len(ITEMS), True, 3, 5, [64, 128])
    recorded = storage.read_json(epath.Path(tmp_path / "stage" / "manifest.json"))["recorded"]
    assert recorded == {"decoding.slots": 4, NAME: [64, 128]}
    assert len(list(records.read_shards(tmp_path / "stage", "x", records.Candidate))) == len(ITEMS)


def test_fewer_classes_than_it_was_begun_with_are_found_anew(tmp_path, capsys):
    with pytest.raises(Killed):
        serve(tmp_path / "stage", Engine(stop_after=20))
    engine = Engine()
    engine.chosen = ()
    serve(tmp_path / "stage", engine, classes=1)
    assert engine.expected[-1] is None and "x: goes on with 1 classes of rows, was begun with 2" in capsys.readouterr().err
    assert storage.read_json(epath.Path(tmp_path / "stage" / "manifest.json"))["recorded"] == {"decoding.slots": 4, NAME: []}

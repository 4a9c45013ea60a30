"""What the stage asks the backward model for each segment, and what it makes of the answer, with an engine that answers at once."""

from humpback import config, keys, prompts
from humpback.decoding.engine import Result, Stats
from humpback.decoding.sampling import Sampler
from humpback.models.folders import Model, ModelInfo
from humpback.records import Candidate, Segment, read_shards, write_shards
from humpback.stages import augment
from humpback.stages.directory import Run, Stage
from tests import tiny, tiny_config

SEGMENT = Segment("00000001ffffffff", "Whales sing at depth.", "Song", ("Whales", "Song"), "http://u", "s.html", 0, 9)


class Engine:
    """Answers "How?" and remembers what it was asked."""

    slots, classes, most_classes = 4, ("all",), 1

    def __init__(self, tokenizer):
        self.answer, self.stats, self.asked = tuple(tokenizer.encode("How?")), Stats(), []

    longest_visit = 60.0

    def warm_up(self, sampler, stops):
        return 0

    def expect(self, prompts, all_of_them, each, max_new, limits):
        self.expected = len(list(prompts)), all_of_them
        return ()

    def class_of(self, ids, max_new):
        return 0

    def unload(self):
        pass

    def fits(self, ids, max_new, start=0):
        return True

    def generate(self, requests, sampler, stop_ids, on_visit):
        for request in requests:
            self.asked.append((request.ids.tolist(), request.key.tolist(), request.max_new, sampler, stop_ids))
            yield Result(request.id, self.answer, (-1.0,) * len(self.answer), "stop")


def test_what_is_asked_of_the_backward_model(tmp_path, monkeypatch):
    cfg, tokenizer = tiny_config.get_config(), tiny.make_tokenizer()
    cfg.seed = 5
    run, engine = Run(config.finish(cfg), tmp_path), Engine(tokenizer)
    segments = Stage(run.workdir / "segments", {}, {}, {})
    segments.finish(counts={}, files=write_shards(segments.path, "segments", [SEGMENT], 1))
    Stage(run.workdir / "backward", {}, {}, {}).finish(counts={}, weights_sha256="w")

    def open_engine(run, stage, name, directions, template):
        assert (name, directions, template) == ("backward", {"backward"}, prompts.backward_prompt)
        return Model(ModelInfo(tiny.CONFIG, "backward", "chatml"), {}, tokenizer), engine, run.cfg.decoding

    monkeypatch.setattr(augment, "open_engine", open_engine)
    augment.augment(run)
    wrapper = prompts.WRAPPERS["chatml"]
    ids = tokenizer.encode_wrapped(wrapper.prefix, prompts.backward_prompt(SEGMENT.text).content, wrapper.suffix)
    key = keys.record_keys(5, "augment", [SEGMENT.id])[0].tolist()
    assert engine.asked == [(ids, key, 24, Sampler(0.7, 0.9), frozenset([tokenizer.eos_id]))]
    made = list(read_shards(run.workdir / "candidates", "candidates", Candidate))
    assert made == [Candidate(SEGMENT.id, SEGMENT, "How?", "", "w", 5, log_prob=-1.0)]


def test_several_instructions_of_a_segment_are_drawn_apart(tmp_path, monkeypatch):
    """The first as if it were alone; the others under ids of their own, by which they are drawn. Each leads back to the segment."""
    cfg, tokenizer = tiny_config.get_config(), tiny.make_tokenizer()
    cfg.augment.candidates = 3
    run, engine = Run(config.finish(cfg), tmp_path), Engine(tokenizer)
    segments = Stage(run.workdir / "segments", {}, {}, {})
    segments.finish(counts={}, files=write_shards(segments.path, "segments", [SEGMENT], 1))
    Stage(run.workdir / "backward", {}, {}, {}).finish(counts={}, weights_sha256="w")
    model = Model(ModelInfo(tiny.CONFIG, "backward", "chatml"), {}, tokenizer)
    monkeypatch.setattr(augment, "open_engine", lambda *_: (model, engine, run.cfg.decoding))
    augment.augment(run)
    made = list(read_shards(run.workdir / "candidates", "candidates", Candidate))
    assert len(made) == len({candidate.id for candidate in made}) == 3 and {candidate.segment for candidate in made} == {SEGMENT}
    assert made[0].id == SEGMENT.id
    drawn = [key for _, key, *_ in engine.asked]
    assert drawn == keys.record_keys(0, "augment", [candidate.id for candidate in made]).tolist() and drawn[0] != drawn[1] != drawn[2]

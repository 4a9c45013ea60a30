import msgspec
import numpy as np
import pytest

from humpback import config, prompts, records
from humpback.decoding import offline
from humpback.decoding.engine import Request, Result
from humpback.errors import UserError
from humpback.model import llama
from humpback.models import folders
from humpback.records import Candidate, Example, Likely, Rated, Segment, read_shards, write_shards
from humpback.stages import curate, likelihood
from humpback.stages.augment import judge
from humpback.stages.base import convert_base
from humpback.stages.directory import Run, Stage, read_manifest
from humpback.tokens.examples import build_example
from humpback.training import evaluate
from tests import tiny


def rated(number: int, score: float | None) -> Rated:
    segment = Segment(f"{number:016x}", "text", "h", ("h",), "u", "s", 0, 1)
    return Rated(segment.id, Candidate(segment.id, segment, "i", "", "m", 0), score, (), (), (), "", "m", 0)


SCORES = [5.0, 4.5, 4.49, 4.0, 3.99, 1.0, None, 4.5]


@pytest.mark.parametrize(
    ("fields", "numbers"),
    [
        ({"select": "threshold", "threshold": 4.5}, [0, 1, 7]),
        ({"select": "threshold", "threshold": 4.0}, [0, 1, 2, 3, 7]),
        ({"select": "top_fraction", "fraction": 0.25}, [0, 1]),  # a tie with 7, decided by id
        ({"select": "top_fraction", "fraction": 1.0}, [0, 1, 2, 3, 4, 5, 7]),
        ({"select": "top_fraction", "fraction": 0.0}, [0]),
    ],
)
def test_selection(fields, numbers):
    cfg = config.Curate(**fields)
    scored = [(score, f"{i:016x}") for i, score in enumerate(SCORES) if score is not None]
    assert sorted(int(i, 16) for i in curate.choose(scored[::-1], len(SCORES), cfg)) == numbers


def test_a_curated_example_is_the_candidates_pair(tmp_path):
    """Instruction and text of the segment, from its page, with all of its history."""
    run = Run(config.finish(config.Config()), tmp_path)
    segment = Segment("a" * 16, "The text.", "Header", ("Top", "Header"), "http://page", "file.html", 3, 40)
    best = Rated(segment.id, Candidate(segment.id, segment, "Ask?", "", "m", 0), 4.5, (4.0, 5.0), ("x", "y"), (), "", "n", 0)
    stage = Stage(run.workdir / "ratings-1", {}, {}, {})
    stage.finish(counts={}, files=write_shards(stage.path, "ratings", [rated(1, 4.4), best], 2))
    curate.select(run, 1)
    made = list(read_shards(run.workdir / "curated-1", "curated", Example))
    assert made == [Example(segment.id, "Ask?", "The text.", "augmented", "http://page", best)]


def test_of_several_candidates_of_a_segment_the_best_counts(tmp_path):
    """Two segments with two candidates each: half of the segments, and not of the candidates, are kept."""
    cfg = config.Config()
    cfg.curate.select, cfg.curate.fraction = "top_fraction", 0.5
    run = Run(config.finish(cfg), tmp_path)
    segments = [Segment(name * 16, f"text {name}", "h", ("h",), "u", "s", 0, 1) for name in "ab"]
    made = [("a" * 16, segments[0], 3.0), ("c" * 16, segments[0], 5.0), ("b" * 16, segments[1], 4.0), ("d" * 16, segments[1], 4.5)]
    rows = [Rated(key, Candidate(key, of, key[0], "", "m", 0), score, (score,), (), (), "", "n", 0) for key, of, score in made]
    stage = Stage(run.workdir / "ratings-1", {}, {}, {})
    stage.finish(counts={}, files=write_shards(stage.path, "ratings", rows, 4))
    curate.select(run, 1)
    assert [(e.id, e.instruction, e.response) for e in read_shards(run.workdir / "curated-1", "curated", Example)] == [
        ("c" * 16, "c", "text a")
    ]
    assert curate.best_of_each({"a": 1.0, "c": 1.0, "b": 0.0}, {"c": "a"}) == {"a": 1.0, "b": 0.0}


@pytest.mark.parametrize(
    ("finish", "instruction", "reason"),
    [
        ("length", "How", "unfinished"),
        ("stop", "", "empty"),
        ("stop", "Write the instruction that it most likely answers", "echo"),
        ("stop", "How is bread made?", ""),
    ],
)
def test_candidates_that_are_not_usable_keep_their_reason(finish, instruction, reason):
    segment = rated(1, None).candidate.segment
    assert judge(instruction, Result("1", (), (), finish), segment) == reason
    assert judge(instruction, Result("1", (), (), finish), segment, 0) == reason.replace("echo", "")


def test_expected_rating_equals_a_hand_computation(make_run, monkeypatch):
    """One candidate through the engine, against a whole forward pass over ids put together by hand."""
    from humpback.stages.models import open_engine

    run = make_run()
    convert_base(run)
    template = lambda text: prompts.rating_prompt(text, text, "expected")  # noqa: E731
    model, engine, _ = open_engine(run, run.stage("x", (), module=curate.__name__), "base", {"base"}, template)
    candidate = rated(1, None).candidate
    task = curate.Rater(run, 1, "Rate it.", "digest", model).task()
    asked = task.encode(candidate)
    [(_, answer)] = engine.read([Request("1", asked, np.zeros(2, np.uint32), 0)], task.read)
    record = task.make(candidate, [answer])
    text = "Rate it.\n\nInstruction: i\n\nResponse: text\n\n" + prompts.rating_prompt("i", "r", "expected").tail.strip()
    tokenizer = model.tokenizer
    ids = [tokenizer.specials["<|im_start|>"], *tokenizer.encode("user\n" + text), tokenizer.specials["<|im_end|>"]]
    ids += [*tokenizer.encode("\n"), tokenizer.specials["<|im_start|>"], *tokenizer.encode("assistant\n"), *tokenizer.encode("Score: ")]
    assert asked.tolist() == ids
    array = np.array(ids)[None]
    params = folders.load_model(run.workdir / "base").params
    logits = np.asarray(llama.forward(model.info.config, llama.stack_layers(params), array, np.arange(len(ids))[None]))[0, -1]
    digits = np.array([logits[tokenizer.encode(f"Score: {d}")[-1]] for d in range(1, 6)], np.float64)
    p = np.exp(digits) / np.exp(digits).sum()
    np.testing.assert_allclose(record.probabilities, p, atol=1e-5)
    assert record.score == pytest.approx(float((p * [1, 2, 3, 4, 5]).sum()), abs=1e-4)
    assert record.reason == "" and record.texts == ()


def test_expected_needs_digits_of_one_token_each():
    class Merging:
        name = "merging"

        def encode(self, text):
            return [ord(c) for c in text.replace(": 4", "\u00ff")]

    with pytest.raises(UserError, match="merging encodes 'Score: 4'"):
        curate.score_token_ids(Merging())
    assert len(set(curate.score_token_ids(tiny.make_tokenizer()))) == 5


def test_a_prompt_that_is_cut_is_noted_in_the_record(make_run):
    model = type("Tiny", (Model,), {"tokenizer": tiny.make_tokenizer()})
    task = curate.Rater(make_run(curate__mode="sampled"), 1, "Rate it.", "digest", model).task()
    for text, cut in (("So.", False), ("So it is. " * 100, True)):
        candidate = rated(1, None).candidate
        candidate = msgspec.structs.replace(candidate, segment=msgspec.structs.replace(candidate.segment, text=text))
        assert len(task.encode(candidate)) <= 160 - 16
        record = task.make(candidate, [Result("", tuple(model.tokenizer.encode("Score: 4")), (), "stop")])
        assert (record.score, record.prompt_cut, '"prompt_cut":true' in records.to_json(record).decode()) == (4.0, cut, cut)


class Tokenizer:
    eos_id = 0

    def decode(self, ids):
        return bytes(ids).decode()

    def encode_wrapped(self, prefix, content, suffix):
        return [1] * 10


class Model:
    tokenizer = Tokenizer()

    class info:
        wrapper = "chatml"


def test_sampled_ratings_take_the_mean_of_the_valid_ones(make_run):
    task = curate.Rater(make_run(curate__samples=3, curate__mode="sampled"), 1, "Rate it.", "digest", Model()).task()
    assert (task.samples, task.purpose, task.max_new) == (3, "rate-1", 16)
    candidate = rated(1, None).candidate
    answers = [Result("", tuple(text.encode()), (0.0,), "stop") for text in ("Score: 4", "four", "Fine.\nScore: 5")]
    record = task.make(candidate, answers)
    assert (record.score, record.scores) == (4.5, (4.0, None, 5.0))
    assert record.texts == ("Score: 4", "four", "Fine.\nScore: 5")
    assert task.make(candidate, answers[1:2]).reason == "no valid rating"


def test_a_cut_text_is_no_rating_and_is_told_from_one_that_says_nothing(make_run):
    task = curate.Rater(make_run(curate__mode="sampled"), 1, "Rate it.", "digest", Model()).task()
    table = [("Score: 4", None, "rating cut off"), ("Score: 4\nIt is", 4.0, ""), ("It is", None, "rating cut off")]
    for text, score, reason in table:
        record = task.make(rated(1, None).candidate, [Result("", tuple(text.encode()), (0.0,), "length")])
        assert (record.score, record.scores, record.reason) == (score, (score,), reason)


@pytest.mark.parametrize("valid, warned", [(18, False), (17, True)])
def test_invalid_ratings_are_counted_apart_and_too_many_are_warned_of(make_run, monkeypatch, capsys, valid, warned):
    made = [msgspec.structs.replace(rated(i, 4.0), scores=(4.0,), reason="") for i in range(valid)]
    lost = ["rating cut off"] * (19 - valid) + ["no valid rating"]
    made += [msgspec.structs.replace(rated(20 + i, None), scores=(None,), reason=reason) for i, reason in enumerate(lost)]
    echo = msgspec.structs.replace(rated(40, None).candidate, reason="echo")
    made += [msgspec.structs.replace(rated(40, None), candidate=echo, reason="echo")]

    def serve(engine, task, inputs, output, decoding):
        files = write_shards(output.folder, output.name, made, len(made))
        return offline.Done(files, {"in": 22, "out": 21, "rejects": 1}, {"rejected: bad id": 1}, 0)

    run = make_run(curate__mode="sampled")
    for name in ("candidates", "forward-0"):
        Stage(run.workdir / name, {}, {}, {}).finish(counts={}, weights_sha256="m")
    monkeypatch.setattr(curate, "open_engine", lambda *_: (Model(), None, None))
    monkeypatch.setattr(curate, "stage_inputs", lambda *_: None)
    monkeypatch.setattr(curate, "serve", serve)
    curate.rate(run, 1)
    manifest = read_manifest(run.workdir, "ratings-1")
    assert (manifest["counts"]["asked"], manifest["counts"]["valid"]) == (20, valid)
    assert manifest["dropped"] == {"not usable": 1, "rating cut off": 19 - valid, "no valid rating": 1, "rejected: bad id": 1}
    told = capsys.readouterr().err
    assert ("3 of 20 texts have no valid rating; curate.max_new_tokens = 16 cut 2 of them off, 1 have" in told) == warned
    assert ("WARNING" in told) == warned


def test_of_several_samples_each_lost_rating_counts(make_run, tmp_path):
    """Two of three texts of a candidate are lost, for two reasons, and all of another."""
    task = curate.Rater(make_run(curate__samples=3, curate__mode="sampled"), 1, "Rate it.", "digest", Model()).task()
    texts = [("Score: 4", "stop"), ("Score: 4", "length"), ("four", "stop")]
    first, last = ([Result("", tuple(text.encode()), (0.0,), end) for text, end in some] for some in (texts, texts[1:]))
    made = [task.make(rated(number, None).candidate, answers) for number, answers in ((1, first), (2, last))]
    assert [(r.score, r.reason, r.lost) for r in made] == [
        (4.0, "", ("rating cut off", "no valid rating")), (None, "rating cut off", ("rating cut off", "no valid rating")),
    ]  # fmt: skip
    assert '"lost"' not in records.to_json(task.make(rated(3, None).candidate, first[:1])).decode()
    write_shards(tmp_path, "ratings", made, 2)
    found = {"asked": 2, "valid": 1, "ratings": 5, "prompts cut": 0, "rating cut off": 2, "no valid rating": 2}
    assert curate._count_ratings(tmp_path) == found


@pytest.mark.parametrize("mode", ["sampled", "expected"])
def test_candidates_with_a_reason_are_never_rated(make_run, mode):
    segment = rated(1, None).candidate.segment
    candidate = Candidate(segment.id, segment, "i", "echo", "m", 0)
    model = type("Tiny", (Model,), {"tokenizer": tiny.make_tokenizer()})
    task = curate.Rater(make_run(curate__mode=mode), 1, "Rate it.", "digest", model).task()
    assert not task.asks(candidate) and task.asks(rated(1, None).candidate)
    record = task.make(candidate, [])
    assert (record.score, record.reason, record.texts) == (None, "echo", ())


def likely(number: int, score: float | None, log_prob: float | None = None) -> Likely:
    candidate = msgspec.structs.replace(rated(number, None).candidate, log_prob=log_prob)
    if score is None:
        return Likely(candidate.id, candidate, "echo", "m")
    return Likely(candidate.id, candidate, "", "m", 4 * score - 8, -8.0, 4)


@pytest.mark.parametrize(
    ("mode", "fraction", "numbers"),
    [
        ("expected", 0.4, [0, 1]),
        ("likelihood", 0.4, [1, 3]),
        ("expected+likelihood", 0.2, [1]),  # of 0, 1 and 2: ranks 1, 0.5, 0 and 0, 1, 0.5
        ("likelihood+backward", 0.2, [3]),
    ],
)
def test_one_score_chooses_or_the_mean_of_ranks(tmp_path, mode, fraction, numbers):
    """Candidate 4 has no likelihood, and 3 no rating; who lacks one of the scores has no rank."""
    cfg = config.Config()
    cfg.curate.mode, cfg.curate.select, cfg.curate.fraction = mode, "top_fraction", fraction
    run = Run(config.finish(cfg), tmp_path)
    ratings, likelihoods = [5.0, 4.0, 3.0, None, 2.0], [-0.1, 0.9, 0.7, 0.8, None]
    written = [-1.0, -2.0, -3.0, -0.5, -0.1]
    for name, made in (
        ("ratings", [rated(i, score) for i, score in enumerate(ratings)]),
        ("likelihood", [likely(i, score, written[i]) for i, score in enumerate(likelihoods)]),
    ):
        stage = Stage(run.workdir / f"{name}-1", {}, {}, {})
        stage.finish(counts={}, files=write_shards(stage.path, name, made, 5))
    curate.select(run, 1)
    made = list(read_shards(run.workdir / "curated-1", "curated", Example))
    assert [int(example.id, 16) for example in made] == numbers
    assert all((example.rated is not None, example.likely is not None) == ("expected" in mode, "likelihood" in mode) for example in made)


def test_the_likelihood_of_a_response_under_its_instruction_and_alone(make_run):
    """Each candidate through the engine, against training's own likelihoods; one with a reason is not asked about."""
    run = make_run(curate__mode="likelihood")
    convert_base(run)
    base = folders.load_model(run.workdir / "base")
    folders.save_model(run.workdir / "forward-0", folders.ModelInfo(base.info.config, "forward", "chatml"), base.params, base.tokenizer)
    Stage(run.workdir / "forward-0", {}, {}, {}).finish(counts={}, weights_sha256="m")
    made = [
        msgspec.structs.replace(
            c := rated(number, None).candidate, instruction=f"Why {number}?", reason="echo" if number == 2 else "",
            segment=msgspec.structs.replace(c.segment, text="word " * (400 if number == 3 else 3 + number)),
        )
        for number in range(4)
    ]  # fmt: skip
    stage = Stage(run.workdir / "candidates", {}, {}, {})
    stage.finish(counts={}, files=write_shards(stage.path, "candidates", made, 4))
    likelihood.measure(run, 1, curate.Judge(run, 1))
    found = list(read_shards(run.workdir / "likelihood-1", "likelihood", Likely))
    assert [record.score is None for record in found] == [False, False, True] and found[2].reason == "echo"
    manifest = read_manifest(run.workdir, "likelihood-1")
    assert (manifest["counts"]["asked"], manifest["counts"]["rejects"], manifest["dropped"]) == (
        2, 1, {"not usable": 1, "rejected: prompt too long": 1},
    )  # fmt: skip
    for record in found[:2]:
        text = record.candidate.segment.text.strip()
        built = [
            build_example(base.tokenizer, "x", prompt, text, prompts.WRAPPERS["chatml"], 160)
            for prompt in (prompts.forward_prompt(record.candidate.instruction), prompts.UNASKED)
        ]
        nats = evaluate.nll(base.info.config, base.params, built, length=160, mesh=run.mesh()).nats
        np.testing.assert_allclose([-record.given, -record.alone], nats, rtol=1e-5)
        assert record.tokens == built[0].target_tokens
    curate.select(make_run(curate__mode="likelihood"), 1)
    assert read_manifest(run.workdir, "curated-1")["counts"] == {"selected": 1, "in the top fraction": 1}

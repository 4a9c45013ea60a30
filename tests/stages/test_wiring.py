"""The whole loop for three iterations, its trainer and its engine stood in for by ones that write down what they are given.

The table that this is compared with is the paper's, section 2 and figure 1: M_yx and every M_t begin from the base M; M_yx learns the
seed reversed, M_0 the seed, M_t the seed and A^(t), which M_{t-1} has rated; A is written once, by M_yx. Held-out prompts are answered by
M and every M_t.
"""

import re

import jax
import numpy as np
import pytest

from humpback.decoding import serving
from humpback.decoding.answers import Generated
from humpback.decoding.engine import Result, Stats
from humpback.model import llama
from humpback.models import folders
from humpback.models.folders import Model, ModelInfo
from humpback.records import Candidate, Example, Rated, Segment, read_shards
from humpback.stages.run import run_all
from humpback.training import evaluate, loop
from tests import tiny

SHAPES = jax.eval_shape(lambda: llama.init_params(tiny.CONFIG, jax.random.key(0)))
MODELS = ("M", "M_yx", "M_0", "M_1", "M_2", "M_3")  # in the order in which they are made; all weights of one are its place here
FOLDERS = {"base": "M", "backward": "M_yx", **{f"forward-{t}": f"M_{t}" for t in range(4)}}
SEED = {"How is coffee made?": "Grind the beans and pour hot water over them.", "Why do cats purr?": "They purr when they are content."}
HELD_OUT = {"Who wrote Faust?": "Goethe wrote it, in two parts."}
TEXTS = {
    "Tea": "Warm the pot with a little hot water before you begin. Then put one spoon of leaves into it for each cup that you "
    "want, pour the boiling water over them and wait for about four minutes. If it stays there longer, it becomes bitter, "
    "and that is what most people do not like about it. Some put the milk into the cup first.",
    "Bread": "Flour, water, salt and a little yeast are kneaded by hand until the dough is smooth and no longer sticks to the table. "
    "It rests in a warm place for an hour, and it will be twice as large when you look at it again. Then it goes into a hot "
    "oven, where the crust becomes brown and hard while the inside of it stays soft.",
    "Snow": "High up in a cold cloud a small drop freezes around a grain of dust. Six arms begin to grow from it because of the way "
    "in which water forms its crystals, and every one of them has the same weather on its way down. So they look alike, but "
    "no two flakes that fall have ever come by the same way, and they differ.",
    "Whales": "They sing at great depth, and their songs travel very far through the dark ocean, where there is little light to see "
    "by. Each group has a dialect of its own that the young must learn from the old ones, and it changes over the years. "
    "When two groups meet, one of them may take over the song of the other.",
}
ASKED = {"Tea": "How do I make tea?", "Bread": "How do I bake bread?", "Snow": "How does snow form?", "Whales": "What do whales sing?"}
SCORES = {  # of the judges; nobody else is asked
    "M_0": {"Tea": 5, "Bread": 4, "Snow": 3, "Whales": 2},
    "M_1": {"Tea": 2, "Bread": 5, "Snow": 4.5, "Whales": 3},
    "M_2": {"Tea": 4, "Bread": 1, "Snow": 2, "Whales": 5},
}
CURATED = {1: ["Tea"], 2: ["Bread", "Snow"], 3: ["Whales"]}
NATS = {"M": 3.0, "M_yx": 2.5, "M_0": 2.75, "M_1": 2.625, "M_2": 2.5, "M_3": 2.25}  # per token

TO_WRITE = (
    "The text below may be somebody's answer to a question or an instruction. "
    "Write the instruction that it most likely answers, one for which it would be a great answer.\n\n"
    "{}\n\nAnswer in the style of an AI Assistant.\n\n"
)
TO_RATE = (
    "Rate it from 1 to 5.\n\nInstruction: {}\n\nResponse: {}\n\n"
    'Give a brief reason for your judgement, and then, as the last line, "Score: " and the rating from 1 to 5.\n\n'
)
SEED_TAGGED = "{} Answer in the style of an AI Assistant.\n\n"
WEB_TAGGED = "{} Answer with knowledge from web search.\n\n"
BOTH_TAGGED = "{} Answer in the style of an AI Assistant. Answer with knowledge from web search.\n\n"

REVERSED = sorted((TO_WRITE.format(response), instruction) for instruction, response in SEED.items())
FORWARD = sorted((SEED_TAGGED.format(instruction), response) for instruction, response in SEED.items())
# Who is trained, from whom, in which direction, on what: (prompt, target).
TRAINED = [
    ("M_yx", "M", "backward", REVERSED),
    ("M_0", "M", "forward", FORWARD),
    ("M_1", "M", "forward", sorted([*FORWARD, (WEB_TAGGED.format(ASKED["Tea"]), TEXTS["Tea"])])),
    ("M_2", "M", "forward", sorted([*FORWARD, *((WEB_TAGGED.format(ASKED[name]), TEXTS[name]) for name in ("Bread", "Snow"))])),
    ("M_3", "M", "forward", sorted([*FORWARD, (WEB_TAGGED.format(ASKED["Whales"]), TEXTS["Whales"])])),
]
TO_ANSWER = [BOTH_TAGGED.format(instruction) for instruction in HELD_OUT]
TO_RATE_ALL = sorted(TO_RATE.format(ASKED[name], TEXTS[name]) for name in TEXTS)
# Who is asked for what.
SERVED = [
    ("M_yx", sorted(TO_WRITE.format(text) for text in TEXTS.values())),
    ("M", TO_ANSWER),
    ("M_0", TO_ANSWER),
    ("M_0", TO_RATE_ALL),
    ("M_1", TO_ANSWER),
    ("M_1", TO_RATE_ALL),
    ("M_2", TO_ANSWER),
    ("M_2", TO_RATE_ALL),
    ("M_3", TO_ANSWER),
]
# Who is measured, on what: the base once for each task.
MEASURED = [
    *((name, [(TO_WRITE.format(response), instruction) for instruction, response in HELD_OUT.items()]) for name in ("M", "M_yx")),
    *((name, [(BOTH_TAGGED.format(x), y) for x, y in HELD_OUT.items()]) for name in ("M", "M_0", "M_1", "M_2", "M_3")),
]


def name_of(params) -> str:
    """The model of these weights."""
    [number] = np.unique(np.asarray(params["embedding"]))
    return MODELS[int(number)]


class Log:
    """What the stand-ins were given, and by which digest a model goes."""

    def __init__(self) -> None:
        self.trained, self.served, self.measured, self.ids = [], [], [], {}
        self.tokenizer = tiny.make_tokenizer()
        self.digests = {}

    def pair(self, example) -> tuple[str, str]:
        """Prompt and target of a token example, whose target ends."""
        assert example.ids[-1] == self.tokenizer.eos_id
        ids = list(example.ids)
        return self.tokenizer.decode(ids[: example.target_start]), self.tokenizer.decode(ids[example.target_start : -1])

    def train(self, model, examples, training, **_):
        """In place of loop.train: new weights, whatever they begin from."""
        made = MODELS[len(self.trained) + 1]
        self.trained.append((made, name_of(model.params), training.info.direction, sorted(map(self.pair, examples))))
        self.ids[made] = sorted(example.id for example in examples)
        assert FOLDERS[training.purpose] == made
        params = jax.tree.map(lambda leaf: np.full(leaf.shape, MODELS.index(made), np.float32), SHAPES)
        self.digests[made] = folders.digest_of(folders.weights_digest(params))
        return loop.Trained(params, 1, 0)

    def engine_at(self, path, decoding, tensor, directions, template):
        """In place of serving.engine_at: the weights of a folder, which must be of a direction."""
        model = folders.load_model(path, directions=directions)
        self.served.append((name_of(model.params), []))
        return Model(model.info, {}, model.tokenizer), Engine(self.tokenizer, *self.served[-1])

    def nll(self, cfg, params, examples, **_):
        """In place of evaluate.nll."""
        self.measured.append((name_of(params), list(map(self.pair, examples))))
        tokens = np.array([example.target_tokens for example in examples])
        return evaluate.Scores(NATS[name_of(params)] * tokens, tokens)


class Engine:
    """Answers by the tables above and writes down what it is asked."""

    slots, classes, most_classes = 4, ("all",), 1

    def __init__(self, tokenizer, name, asked):
        self.tokenizer, self.name, self.asked, self.stats = tokenizer, name, asked, Stats()

    longest_visit = 60.0

    def warm_up(self, *_):
        return 0

    def expect(self, *_):
        return ()

    def class_of(self, ids, max_new):
        return 0

    def unload(self):
        pass

    def fits(self, ids, max_new, start=0):
        return True

    def generate(self, requests, sampler, stop_ids, on_visit):
        for request in requests:
            prompt = self.tokenizer.decode(request.ids.tolist())
            self.asked.append(prompt)
            if prompt in TO_ANSWER:
                answer = f"{self.name} says Goethe."
            else:
                [topic] = [topic for topic, text in TEXTS.items() if text in prompt]
                answer = f"Score: {SCORES[self.name][topic]}" if self.name in SCORES else ASKED[topic]
            yield Result(request.id, tuple(self.tokenizer.encode(answer)), (-1.0,), "stop")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Base weights that are all zero, pairs, a page and a rubric."""
    folder = tmp_path_factory.mktemp("wiring")
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), SHAPES)
    folders.save_model(folder / "base", ModelInfo(tiny.CONFIG, "base", "plain"), zeros, tiny.make_tokenizer())
    for name, pairs in (("seed", SEED), ("held_out", HELD_OUT)):
        lines = (f'{{"instruction": "{instruction}", "response": "{response}"}}\n' for instruction, response in pairs.items())
        (folder / f"{name}.jsonl").write_text("".join(lines))
    body = "".join(f"<h2>{header}</h2><p>{text}</p>" for header, text in TEXTS.items())
    (folder / "page.html").write_text(f"<!doctype html><html lang=en><title>T</title><body><h1>All of it</h1>{body}</body></html>")
    (folder / "rubric.txt").write_text("Rate it from 1 to 5.")
    return folder


def test_three_iterations_are_the_papers(folder, make_run, monkeypatch, capsys):
    log = Log()
    monkeypatch.setattr(loop, "train", log.train)
    monkeypatch.setattr(serving, "engine_at", log.engine_at)
    monkeypatch.setattr(evaluate, "nll", log.nll)
    lengths = {f"{task}__length": 2_048 for task in ("backward", "forward_seed", "forward", "decoding")}
    run = make_run(
        iterations=3, wrapper="plain", base__source=str(folder / "base"),
        seed_pairs__source=str(folder / "seed.jsonl"), seed_pairs__held_out_source=str(folder / "held_out.jsonl"), seed_pairs__held_out=1,
        segments__input=str(folder / "page.html"), segments__min_chars=60, segments__max_chars=500,
        curate__rubric_file=str(folder / "rubric.txt"), curate__mode="sampled", curate__select="threshold", curate__threshold=4.5,
        **lengths,
    )  # fmt: skip
    run_all(run)

    assert log.trained == TRAINED
    assert [(name, sorted(asked)) for name, asked in log.served] == SERVED
    assert log.measured == MEASURED

    def of(stage: str, name: str, kind: type) -> list:
        return list(read_shards(run.workdir / stage, name, kind))

    segments = {segment.header: segment for segment in of("segments", "segments", Segment)}
    assert {header: segment.text for header, segment in segments.items()} == TEXTS
    seed = sorted(pair.id for pair in of("seed", "seed", Example))
    for t in range(1, 4):
        assert log.ids[f"M_{t}"] == sorted([*seed, *(segments[name].id for name in CURATED[t])])
    assert log.ids["M_yx"] == log.ids["M_0"] == seed

    candidates = of("candidates", "candidates", Candidate)
    assert {c.segment.header: (c.instruction, c.model) for c in candidates} == {h: (ASKED[h], log.digests["M_yx"]) for h in TEXTS}
    for t, judge in enumerate(("M_0", "M_1", "M_2"), 1):
        rated = {r.candidate.segment.header: r for r in of(f"ratings-{t}", "ratings", Rated)}
        assert {header: (r.score, r.model) for header, r in rated.items()} == {h: (SCORES[judge][h], log.digests[judge]) for h in TEXTS}
        made = {Example(segments[h].id, ASKED[h], TEXTS[h], "augmented", "page.html", rated[h]) for h in CURATED[t]}
        assert set(of(f"curated-{t}", "curated", Example)) == made

    for folder, model in {"base": "M", **{str(t): f"M_{t}" for t in range(4)}}.items():
        [made] = of(f"answers-{folder}", "generated", Generated)
        assert (made.instruction, made.output) == ("Who wrote Faust?", f"{model} says Goethe.")

    report = (run.workdir / "report.md").read_text()
    shown = re.findall(r"header: ` (\w+) `", report)
    assert (shown[:4], shown[4:]) == (["Whales", "Tea", "Snow", "Bread"], ["Bread", "Snow", "Tea", "Whales"])
    for row in (
        "| seed | 2 | 18 ± 1 | 38 ± 9 |",
        "| A^(1) curated | 1 | 18 ± – | 319 ± – |",
        "| A^(2) curated | 2 | 20 ± 1 | 314 ± 5 |",
        "| A^(3) curated | 1 | 20 ± – | 303 ± – |",
        "| A, all usable | 4 | 19 ± 1 | 312 ± 7 |",
    ):
        assert row in report
    said = capsys.readouterr().out
    for line in ("M_yx, instruction given response, held out: -0.5000 ±", "M_0, response given instruction, held out: -0.2500 ±"):
        assert line in report and line in said

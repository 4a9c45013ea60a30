"""A run's folders as export and report see them, made of the demo's pages without any model."""

import functools
import hashlib
import json
import pathlib

import msgspec
from etils import epath

from humpback import config as configs
from humpback.corpus import readers, segments
from humpback.decoding.answers import Generated
from humpback.decoding.parts import Reject
from humpback.records import Candidate, Example, Judged, Probe, Rated, Rewrite, Segment, read_shards, write_shards
from humpback.review import agreement, labels, sample

PAGES = pathlib.Path(__file__).parents[2] / "humpback" / "demo" / "pages"


def cut() -> list[Segment]:
    """The segments of all embedded pages, by id."""
    return list(_cut())


@functools.cache
def _cut() -> tuple[Segment, ...]:
    cfg = configs.finish(configs.Config()).segments
    found = {}
    for unit in readers.list_inputs(str(PAGES)):
        for page in readers.read_pages(unit, lambda source, reason: None, lambda text: None):
            found |= {segment.id: segment for segment in segments.extract(page, cfg, lambda reason, tree: None)}
    return tuple(found[name] for name in sorted(found))


def rated(segment: Segment, score: float, instruction: str = "", model: str = "m0") -> Rated:
    """A rating of a candidate for it."""
    candidate = Candidate(segment.id, segment, instruction or f"Tell me about {segment.header}.", "", "myx", 7)
    return Rated(segment.id, candidate, score, (score,), (f"Score: {score:.0f}",), (), "", model, 7)


def renamed(one: Rated, name: str) -> Rated:
    """The same under another id."""
    structs = msgspec.structs
    candidate = structs.replace(one.candidate, id=name, segment=structs.replace(one.candidate.segment, id=name))
    return structs.replace(one, id=name, candidate=candidate)


def unrated(one: Rated) -> Rated:
    """The same without a valid rating."""
    return msgspec.structs.replace(one, score=None, scores=(None,), reason="no valid rating")


def example(one: Rated) -> Example:
    """A curated pair."""
    segment = one.candidate.segment
    return Example(one.id, one.candidate.instruction, segment.text, "augmented", segment.url, one)


def with_response(one: Example, text: str) -> Example:
    """The same pair with another response, as a rewriter leaves it."""
    return msgspec.structs.replace(one, response=text)


def manifest(folder: pathlib.Path, counts: dict, config: dict | None = None, files: list[str] = (), **more) -> None:  # type: ignore[assignment]
    """A stage that is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files}
    text = {"config": config or {}, "config_sha256": "0" * 64, "counts": counts, "dropped": {}, "files": digests, "inputs": {}} | more
    (folder / "manifest.json").write_text(json.dumps(text))


def make(run: pathlib.Path, count: int = 8, extra: list[Example] = ()) -> pathlib.Path:  # type: ignore[assignment]
    """seed/, segments/ and curated-2/ of a run; returns the last."""
    pairs = [Example(f"{number:016x}", f"What is {number}?", f"It is {number}.", "seed", f"s:{number}") for number in range(3)]
    chosen = [*map(example, (rated(segment, 4.0) for segment in cut()[:count])), *extra]
    manifest(run / "seed", {"train": 3}, files=write_shards(run / "seed", "seed", pairs, len(pairs)))
    fields = {name: value for name, value in configs.leaves(configs.Config()) if name.startswith("segments.")}
    for name in ("segments.input", "segments.contamination"):  # files, which stand elsewhere in a manifest
        del fields[name]
    manifest(run / "segments", {"segments": count}, fields)
    files = write_shards(run / "curated-2", "curated", chosen, len(chosen))
    manifest(run / "curated-2", {"selected": len(chosen)}, files=files)
    return run / "curated-2"


def answers(folder: pathlib.Path) -> pathlib.Path:
    """What `humpback generate` writes: two prompts with two answers each, one of which is empty, and one prompt of ids."""
    folder.mkdir()
    line = {"ids": None, "finish": ["stop", "length"], "log_probs": [-1.5, -2.0], "prompt_tokens": 3, "output_tokens": [2, 4]}
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "Why?"}]
    lines = [
        {"id": "1", "prompt": "Why?", "texts": ["So.", " "], **line},
        {"id": "2", "prompt": None, "messages": turns, "texts": ["A", "B"], **line},
        {"id": "3", "prompt": None, "texts": ["A", "B"], **line, "ids": [1, 2]},
    ]
    (folder / "generated-00000-of-00001.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    manifest(folder, {"in": 3}, {"--model": "sha256 abc"}, ["generated-00000-of-00001.jsonl"])
    return folder


HOSTILE = "<script>alert(1)</script> </style> javascript:alert(2) \u202eright to left\u202c שלום \"'><img src=http://x/y.png>"


def full(run: pathlib.Path, count: int = 24) -> pathlib.Path:
    """A run with two rounds of ratings; one candidate is an echo, one has no rating, and of one all that a page says is hostile."""
    found = cut()[:count]
    url = "javascript:alert(3)</script><b>"
    found[6] = Segment(found[6].id, HOSTILE + found[6].text, HOSTILE, (HOSTILE, "<b>h</b>"), url, HOSTILE, 0, 9)
    candidates = [Candidate(s.id, s, f"Tell me about {s.header}.", "echo" if n == 5 else "", "myx", 7) for n, s in enumerate(found)]
    for t in (1, 2):
        rows = []
        for n, candidate in enumerate(candidates):
            score = None if candidate.reason or (n == 7 and t == 1) else 1 + n * (1 + 3 * t) % 9 / 2
            why = candidate.reason or ("" if score is not None else "no valid rating")
            mass = None if score is None else 0.5 + n / 100
            texts = (f"{HOSTILE} Score: {score}",)
            rows.append(Rated(candidate.id, candidate, score, (score,), texts, (), why, f"m{t - 1}", 7, mass=mass))
        chosen = [example(row) for row in rows if row.score is not None and row.score >= 4]
        manifest(run / f"ratings-{t}", {"asked": 23}, files=write_shards(run / f"ratings-{t}", "ratings", rows, len(rows)))
        manifest(run / f"curated-{t}", {"selected": len(chosen)}, files=write_shards(run / f"curated-{t}", "curated", chosen, len(chosen)))
    manifest(run / "candidates", {"out": 24}, files=write_shards(run / "candidates", "candidates", candidates, len(candidates)))
    pairs = [Example(f"{n:016x}", f"What is the number {n}?", f"It is the number {n} of {n}.", "seed", f"s:{n}") for n in range(9)]
    files = write_shards(run / "seed", "seed", pairs, len(pairs))
    manifest(run / "seed", {"train": 9}, files=files, dropped={"bad line": 5, "duplicate": 1})
    samples = {"bad line": [{"header": f"s.jsonl:{n}: {HOSTILE}", "text": HOSTILE} for n in range(5)]}
    (run / "seed" / "samples.json").write_text(json.dumps(samples))
    manifest(run / "segments", {"pages": 48, "segments": 24}, dropped={"too short": 3, "contaminated": 2})
    samples = {"too short": [{"header": HOSTILE, "text": HOSTILE, "url": HOSTILE, "source": "s", "start": 0, "end": 1}]}
    (run / "segments" / "samples.json").write_text(json.dumps(samples))
    for name in ("backward", "forward-0"):
        models = ["base", name]
        pairs_of = [(place, model, n) for place, model in enumerate(models) for n in range(4)]
        rows = [{"id": f"{n:016x}", "model": model, "nats": 10.0 + n - 2 * place, "tokens": 5 + n} for place, model, n in pairs_of]
        manifest(run / name, {"examples": 9}, dropped={"too_long": 1})
        (run / name / "samples.json").write_text(json.dumps({"too_long": [{"header": HOSTILE, "text": f"Long for {name}. {HOSTILE}"}]}))
        (run / name / "held_out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (run / name / "metrics").mkdir()
        for part, steps in enumerate(((1, 2, 3), (3, 4))):  # step 3 was done again
            lines = [json.dumps({"step": step, "loss": 4.0 / step + part}) + "\n" for step in steps]
            (run / name / "metrics" / f"metrics-{part:05d}.jsonl").write_text("".join(lines))
        (run / name / "timing.json").write_text(json.dumps({"seconds": 12.5, "tokens": 1000, "tokens_per_second": 80.0, "devices": 1}))
    (run / "config.json").write_text('{"seed": 3}')
    _beside(run)
    return run


def _beside(run: pathlib.Path) -> None:
    """Probes of the judge, answers to held-out prompts, labels by two people, and files of figures."""
    asked = [Example(f"{n:016x}", f"Which number is {n}? {HOSTILE}", f"{HOSTILE} It is {n}.", "seed", f"s:{n}") for n in (90, 91)]
    for model in ("base", "0"):
        said = [
            Generated(pair.id, None, None, (f"{HOSTILE} {model} says {pair.id}.",), (end,), (-1.5,), 9, (n + 3,), f"{HOSTILE} {model} says "
                      f"{pair.id}.", pair.instruction)
            for n, (pair, end) in enumerate(zip(asked, ("stop", "length"), strict=True))
        ][: 2 if model == "base" else 1]  # of the second model one prompt had no room
        files = write_shards(run / f"answers-{model}", "prompts", asked, len(asked))
        lost = [Reject(pair.id, "prompt too long", f"{run}/answers-0/prompts-00000-of-00001.jsonl:2", 1) for pair in asked[len(said) :]]
        for name, rows in (("generated", said), ("rejects", lost)):
            files += write_shards(run / f"answers-{model}", name, rows, len(rows))
        manifest(run / f"answers-{model}", {"in": 2}, files=files, dropped={"rejected: prompt too long": len(lost)})
    probes = []
    for n in range(12):
        for kind, score in (("true", 3 + n % 3 / 2), ("swapped", 2 + n % 4 / 2), ("nonsense", 1 + n % 5 / 2)):
            probe = Probe(f"{len(probes):016x}", f"set {n % 2}", kind, f"{n:016x}", f"Why {len(probes)}?", "x" * (9 + n * n % 7))
            score = None if (n, kind) == (3, "swapped") else score
            probes.append(Judged(probe.id, probe, score, (0.1, 0.2, 0.3, 0.1, 0.3 + n / 100), 0.5 + n / 50))
    write_shards(run / "judge-1", "probes", [judged.probe for judged in probes], len(probes))
    manifest(run / "judge-1", {"pairs": 12}, dropped={"rejected: prompt too long": 1})
    (run / "judge-1" / "rubric").mkdir()
    lost = [Reject(probes[6].probe.id, "prompt too long", "/before/judge-1/probes-00000-of-00001.jsonl:7", 6)]
    write_shards(run / "judge-1" / "rubric", "rejects", lost, 1)
    write_shards(run / "judge-1" / "rubric", "judged", probes, len(probes))
    manifest(run / "judge-2", {"pairs": 0})
    drawn = sample.of_candidates(epath.Path(run), 2, 20, 3)
    for reviewer, every in (("ann", 2), ("bob", 3)):
        person = labels.Labels(epath.Path(run), "2", reviewer, drawn)
        for n, shown in enumerate(sorted(person.shown)):
            person.add(shown, "skip" if n == 1 else "yes" if n % every else "no")
    agreement.agreement(epath.Path(run), "2")
    _rewritten(run)
    (run / "figures").mkdir()
    rate = {"win_rate": 61.5, "standard_error": 2.25, "discrete": 61.0, "wins": 61, "losses": 38, "draws": 1, "n": 100, "missing": 4}
    fit = {"alpha": 6.95, "standard_error": None, "per_doubling": 4.817, "constant": -1.5, "points": 2}
    pairs = [{"verb": f"verb{n % 3}", "noun": f"noun{n}", "count": 9 - n} for n in range(5)]
    parsed = {"texts": 50, "parsed": 35, "share": 0.7, "pairs": pairs, "of": 2_500}
    files = {
        "winrate": {"all": rate, "datasets": {"koala": rate | {"wins": 62}}}, "scaling": fit, "diversity-seed": {"verb_nouns": parsed},
    }  # fmt: skip
    for name, content in files.items():
        (run / "figures" / f"{name}.json").write_text(json.dumps(content))


def _rewritten(run: pathlib.Path) -> None:
    """Responses of the first round rewritten, but for four, and one person's labels of them, whether they keep to their texts."""
    made = []
    for n, one in enumerate(read_shards(run / "curated-1", "curated", Example)):
        reason = "" if n % 2 else "new number"
        text = one.response if reason else f"Anew: {one.response}"
        made.append(Rewrite(one.id, with_response(one, text), one.response, f"{HOSTILE} 1234", reason, "m0", 7))
    counts = {"in": len(made), "rewritten": len(made) // 2, "drafts kept": (len(made) + 1) // 2}
    files = write_shards(run / "rewritten-1", "rewrites", made, len(made))
    manifest(run / "rewritten-1", counts, files=files, dropped={"draft kept: new number": counts["drafts kept"]})
    answers_of = sample.rewrites(epath.Path(run), 1, compared=False)
    drawn = sample.of_answers(epath.Path(run), "rewrites-faithful-1", answers_of, 9, 3, sample.REWRITES)
    person = labels.Labels(epath.Path(run), "rewrites-faithful-1", "ann", drawn)
    for n, shown in enumerate(sorted(person.shown)):
        person.add(shown, "no" if n == 0 else "yes")
    agreement.agreement(epath.Path(run), "rewrites-faithful-1")


def planted(value: object, key: str = "") -> object:
    """JSON in which all texts, but names that are looked up, and all names of counts are hostile, too."""
    if isinstance(value, dict):
        free = key in ("dropped", "datasets")
        return {f"{name} {HOSTILE}" if free else name: planted(part, name) for name, part in value.items()}
    if isinstance(value, list):
        return [planted(part, key) for part in value]
    return f"{value} {HOSTILE}" if isinstance(value, str) and value and key not in ("id", "pair", "kind", "files", "input") else value

"""The numbers of a page once more, from a run's files, by other code than the page's."""

import json
import math
import re
import statistics

import numpy as np

from humpback import keys


def numbers(run):
    """All but `figures`, which are files as they are."""
    seed = json.loads((run / "config.json").read_text())["seed"]
    candidates, pairs = lines(run, "candidates"), lines(run, "seed")
    rated = {t: lines(run, f"ratings-{t}", "ratings") for t in (1, 2)}
    curated = {t: lines(run, f"curated-{t}", "curated") for t in (1, 2)}
    usable = [(one["id"], one["instruction"], one["segment"]["text"]) for one in candidates if not one["reason"]]
    scores = {t: {one["id"]: one["score"] for one in rows if one["score"] is not None} for t, rows in rated.items()}
    texts = {one["id"]: one["segment"]["text"] for one in candidates}
    sets = {"seed": [triple(one) for one in pairs], "candidates": usable}
    sets |= {f"curated-{t}": [triple(one) for one in curated[t]] for t in (1, 2)}
    return {
        "run": run.name, "stages": {name: stage(run, name) for name in STAGES},
        "funnel": [
            ["pages", 48], ["segments", 24], ["candidates", len(candidates)], ["usable candidates", len(usable)],
            *[row for t in (1, 2) for row in ([f"rated by M_{t - 1}", len(scores[t])], [f"curated-{t}", len(curated[t])])],
        ],
        "rates": rates(run, candidates), "ratings": {str(t): rating(rows, texts) for t, rows in rated.items()},
        "threshold": {str(t): kept(scores[t], texts, len(usable)) for t in (1, 2)}, "agreement": [both(scores)],
        "churn": [churn({row[0] for row in sets["curated-1"]}, {row[0] for row in sets["curated-2"]})],
        "lengths": [length(name, rows) for name, rows in (sets | {"control for curated-2": control(sets, scores[2], candidates)}).items()],
        "held_out": {task: [held_out(run, stage)] for task, stage in (("backward", "backward"), ("forward", "forward-0"))},
        "judges": judges(run), "labels": {"2": labelled(run, scores), "rewrites-faithful-1": kept_to(run)},
        "training": {name: curve(run / name) for name in ("backward", "forward-0")}, "sites": sites(curated[2]),
        "time": {name: json.loads((run / name / "timing.json").read_text()) for name in ("backward", "forward-0")},
        "answers": answers(run), "trigrams": trigrams(sets, seed), "examples": examples(candidates, scores, seed),
    }  # fmt: skip


THRESHOLDS = [quarter / 4 for quarter in range(4, 21)]
FIRST = ("seed", "segments", "backward", "candidates", "forward-0", "answers-base", "answers-0")
STAGES = (*FIRST, "ratings-1", "judge-1", "curated-1", "rewritten-1", "ratings-2", "judge-2", "curated-2")


def same(found, expected, place="numbers"):
    """Fails with the place of the first difference; floats up to 1e-9."""
    if isinstance(expected, dict):
        assert isinstance(found, dict) and found.keys() == expected.keys(), (place, found, expected)
        for name in expected:
            same(found[name], expected[name], f"{place}.{name}")
    elif isinstance(expected, list | tuple):
        assert isinstance(found, list) and len(found) == len(expected), (place, found, expected)
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            same(one, other, f"{place}[{number}]")
    elif isinstance(expected, float):
        assert isinstance(found, int | float) and math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-12), (place, found, expected)
    else:
        assert found == expected, (place, found, expected)


def lines(run, folder, name=""):
    files = sorted((run / folder).glob(f"{name or folder}-*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def triple(one):
    return one["id"], one["instruction"], one["response"]


def stage(run, name):
    manifest = json.loads((run / name / "manifest.json").read_text())
    return {"counts": manifest["counts"], "dropped": manifest["dropped"]}


def rates(run, candidates):
    reasons = [one["reason"] for one in candidates if one["reason"]]
    return {"candidates": len(candidates), "contaminated_segments": stage(run, "segments")["dropped"]["contaminated"],
            "unusable": {reason: [reasons.count(reason), reasons.count(reason) / len(candidates)] for reason in set(reasons)}}  # fmt: skip


def rating(rows, texts):
    values = [one["score"] for one in rows if one["score"] is not None]
    masses = [one["mass"] for one in rows if one["score"] is not None]
    asked = sum(not one["candidate"].get("reason") for one in rows)
    return {
        "asked": asked, "valid": len(values), "invalid_rate": 1 - len(values) / asked,
        "histogram": {f"{half / 2:.1f}": sum(value == half / 2 for value in values) for half in range(2, 11)},
        "mean": statistics.mean(values), "sd": statistics.stdev(values),
        "score_length_correlation": statistics.correlation(values, [len(texts[one["id"]]) for one in rows if one["score"] is not None]),
        "label_mass": {"p5": float(np.quantile(masses, 0.05)), "median": statistics.median(masses)},
    }  # fmt: skip


def kept(scores, texts, asked):
    rows = []
    for threshold in THRESHOLDS:
        of = [len(texts[i]) for i, score in scores.items() if score >= threshold]
        mean = statistics.mean(of) + 0.0 if of else None
        rows.append({"threshold": threshold, "kept": len(of), "share": len(of) / asked, "mean_output": mean})
    return rows


def both(scores):
    ids = scores[1].keys() & scores[2].keys()
    grid = [[sum(scores[1][i] == 1 + x / 2 and scores[2][i] == 1 + y / 2 for i in ids) for x in range(9)] for y in range(9)]
    r = statistics.correlation([scores[1][i] for i in ids], [scores[2][i] for i in ids])
    return {"iterations": [1, 2], "both": len(ids), "correlation": r, "grid": grid}


def churn(a, b):
    return {"sets": [1, 2], "stay": len(a & b), "go": len(a - b), "come": len(b - a), "jaccard": len(a & b) / len(a | b)}


def control(sets, scores, candidates):
    """For each curated pair by id the one of the nearest length that is left: the last shorter one or the first that is not, by id."""
    by_id = {one["id"]: (one["id"], one["instruction"], one["segment"]["text"]) for one in candidates}
    chosen = {row[0] for row in sets["curated-2"]}
    free = sorted((len(by_id[i][2]), i) for i in scores if i not in chosen)
    found = []
    for i in sorted(chosen):
        size = len(by_id[i][2])
        sides = [*[row for row in free if row[0] < size][-1:], *[row for row in free if row[0] >= size][:1]]
        if sides:
            nearest = min(sides, key=lambda row: (abs(row[0] - size), row[1]))
            free.remove(nearest)
            found.append(by_id[nearest[1]])
    return found


def length(name, rows):
    asked, said = [len(row[1]) for row in rows], [len(row[2]) for row in rows]
    bins = [sum(n // 200 == place for n in said) for place in range(16)] + [sum(n >= 3_200 for n in said)]
    mean_sd = [{"mean": statistics.mean(of) + 0.0, "sd": statistics.stdev(of)} for of in (asked, said)]
    return {"set": name, "examples": len(rows), "instruction": mean_sd[0], "output": mean_sd[1], "output_bins": bins}


def held_out(run, name):
    rows = [json.loads(line) for line in (run / name / "held_out.jsonl").read_text().splitlines()]
    base, own = ([(row["nats"], row["tokens"]) for row in rows if row["model"] == model] for model in ("base", name))
    tokens = sum(count for _, count in own)
    differences = [a - b for (a, _), (b, _) in zip(own, base, strict=True)]
    ratio = sum(differences) / tokens
    squares = sum((d - ratio * count) ** 2 for d, (_, count) in zip(differences, own, strict=True))
    error = math.sqrt(squares * len(own) / (len(own) - 1)) / tokens
    against = {
        "value": sum(nats for nats, _ in own) / tokens, "difference": ratio, "standard_error": error,
        "interval": [ratio - 2 * error, ratio + 2 * error], "below": sum(d < 0 for d in differences), "pairs": len(own), "tokens": tokens,
        "verdict": "fewer than 20 pairs: no verdict",
    }  # fmt: skip
    first = {"model": "base", "value": sum(nats for nats, _ in base) / tokens, "pairs": len(base), "against": {}}
    last = {**first, "model": name, "value": against["value"], "against": {"base": against}}
    return {"set": "held_out", "measure": "nll", "models": [first, last]}


def wilson(right, count, z=1.959963984540054):
    """The two shares at which the observed one is z standard errors away."""
    share = right / count
    roots = np.roots([1 + z**2 / count, -(2 * share + z**2 / count), share**2]).real
    return sorted(float(root) for root in roots)


def judges(run):
    said = lines(run, "judge-1/rubric", "judged")
    of = {}
    for one in said:
        of.setdefault(one["probe"]["pair"], {})[one["probe"]["kind"]] = one
    whole = {pair: kinds for pair, kinds in of.items() if kinds["swapped"].get("score") is not None}

    def seen(pairs):
        true, swapped = ([kinds[kind]["score"] for kinds in pairs] for kind in ("true", "swapped"))
        above = sum((a > b) + (a == b) / 2 for a, b in zip(true, swapped, strict=True))
        auc = statistics.mean((a > b) + (a == b) / 2 for a in true for b in swapped)
        return {"pairs": len(pairs), "true_above": above / len(pairs), "interval": wilson(above, len(pairs)), "auc": auc}

    pairs = list(whole.values())
    true = [kinds["true"] for kinds in pairs]
    digits = [one["probabilities"] for one in true]
    masses = [one["mass"] for one in true]
    r = statistics.correlation
    found = {
        **seen(pairs), "blind": seen(pairs)["interval"][0] <= 0.5, "unrated": len(of) - len(whole),
        "sets": {name: seen([kinds for kinds in pairs if kinds["true"]["probe"]["set"] == name]) for name in ("set 0", "set 1")},
        "length_correlation": r([one["score"] for one in true], [len(one["probe"]["response"]) for one in true]),
        "nonsense_correlation": r([one["score"] for one in true], [kinds["nonsense"]["score"] for kinds in pairs]),
        "mass": {"p5": float(np.quantile(masses, 0.05)), "median": statistics.median(masses)},
        "entropy": statistics.mean(-sum(p * math.log(p) for p in row) for row in digits),
        "modes": {str(digit): sum(row.index(max(row)) + 1 == digit for row in digits) for digit in range(1, 6)},
    }  # fmt: skip
    return [{"iteration": 1, "score": "rubric", "seen": found}]


def answers(run):
    said = {model: {one["id"]: one for one in lines(run, f"answers-{model}", "generated")} for model in ("base", "0")}

    def of(model, pair):
        one = said[model].get(pair["id"])
        return one and {"text": one["texts"][0], "finish": one["finish"][0], "tokens": one["output_tokens"][0]}

    return [
        {"id": one["id"], "instruction": one["instruction"], "people": one["response"], "models": {model: of(model, one) for model in said}}
        for one in lines(run, "answers-0", "prompts")
    ]


def labelled(run, scores):
    """Of the labels of both people those on which they agree, or that one has given alone."""
    drawn = {item["id"]: item for item in json.loads((run / "review" / "sample-2.json").read_text())["items"]}
    given = {}
    for folder in sorted((run / "review" / "labels-2").iterdir()):
        for file in sorted(folder.iterdir()):
            label = json.loads(file.read_text())["label"]
            if re.fullmatch(r"[0-9a-f]{16}\.0\.json", file.name) and label != "skip":
                given.setdefault(file.name[:16], []).append(label)
    agreed = {i: labels[0] == "yes" for i, labels in given.items() if len(set(labels)) == 1}
    strata = {}
    for i, item in drawn.items():
        size, members = strata.setdefault(item["stratum"], [0, []])
        strata[item["stratum"]][0] = size + item["weight"]
        members += [i] if i in agreed else []
    weights = {i: size / len(members) for size, members in strata.values() for i in members}

    def ratio(above, below):
        total = sum(weights[i] for i in below)
        if not total:
            return None
        value = sum(weights[i] for i in above) / total
        variance = 0
        for _, members in strata.values():
            rest = [weights[i] * ((i in above) - value * (i in below)) for i in members]
            variance += len(rest) * statistics.variance(rest) if len(rest) > 1 else 0
        half = 1.959963984540054 * math.sqrt(variance) / total
        return {"value": value, "interval": [max(0.0, value - half), min(1.0, value + half)]}

    judges = {}
    for t in (1, 2):
        rows = []
        for threshold in THRESHOLDS:
            picked = {i for i in agreed if scores[t].get(i, 0) >= threshold}
            good = {i for i, value in agreed.items() if value}
            total = sum(weights[i] for i in picked) + sum(weights[i] for i in good)
            f1 = 2 * sum(weights[i] for i in picked & good) / total
            rows.append({"threshold": threshold, "precision": ratio(picked & good, picked), "recall": ratio(picked & good, good), "f1": f1})
        judges[str(t)] = rows
    none = {"faithful": None, "win_rate": None}
    return {"labelled": len(given), "undecided": len(given) - len(agreed), "judges": judges, **none}


def kept_to(run):
    """Of one person's labels of rewritten responses."""
    files = (run / "review" / "labels-rewrites-faithful-1" / "ann").glob("????????????????.0.json")
    given = [json.loads(file.read_text())["label"] for file in files]
    faithful = {"kept": given.count("yes"), "of": len(given), "interval": wilson(given.count("yes"), len(given))}
    return {"labelled": len(given), "undecided": 0, "judges": {}, "faithful": faithful, "win_rate": None}


def curve(folder):
    found = {}
    for file in sorted((folder / "metrics").iterdir()):
        found |= {row["step"]: row["loss"] for row in map(json.loads, file.read_text().splitlines())}
    return [[step, loss] for step, loss in sorted(found.items())]


def sites(curated):
    hosts = [re.sub(r"^\w+://([^/:]*).*", r"\1", one["source"]) for one in curated]
    top = sorted({host: hosts.count(host) for host in hosts}.items(), key=lambda row: (-row[1], row[0]))
    largest = top[0][1] / len(hosts)
    return {"set": "curated-2", "pairs": len(hosts), "sites": len(top), "largest_share": largest, "top": [list(row) for row in top[:15]]}


def drawn(seed, purpose, ids):
    words = keys.record_keys(seed, purpose, sorted(ids)).tolist()
    return [i for _, i in sorted(zip(words, sorted(ids), strict=True))]


def trigrams(sets, seed):
    size = min(map(len, sets.values()))
    found = {}
    for name, rows in sets.items():
        chosen = set(drawn(seed, f"report trigrams {name}", [row[0] for row in rows])[:size])
        of = [row for row in rows if row[0] in chosen]
        worded = [[re.findall(r"\w+", row[place].lower()) for row in of] for place in (1, 2)]
        runs = [[tuple(text[n : n + 3]) for text in texts for n in range(len(text) - 2)] for texts in worded]
        first = [text[0] for text in worded[0]]
        found[name] = {
            field: {"trigrams": len(every), "unique": len(set(every)), "share": len(set(every)) / len(every)}
            for field, every in zip(("instruction", "response"), runs, strict=True)
        } | {
            "repeated_instructions": len(of) - len(set(map(tuple, worded[0]))),
            "first_words": sorted(([word, first.count(word)] for word in set(first)), key=lambda row: (-row[1], row[0]))[:10],
        }
    return {"pairs_of_each_set": size, "sets": found}


def examples(candidates, scores, seed):
    ids = [one["id"] for one in candidates]
    return {
        "best": sorted(scores[2], key=lambda i: (-scores[2][i], i))[:5], "worst": sorted(scores[2], key=lambda i: (scores[2][i], i))[:5],
        "random": drawn(seed, "report examples", ids)[:10], "shown": len(ids), "of": len(ids),
        "scores": {i: {str(t): scores[t].get(i) for t in (1, 2)} for i in ids},
    }  # fmt: skip

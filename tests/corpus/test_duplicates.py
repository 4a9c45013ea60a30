"""Duplicates and near-duplicates across parts: literal cases, the whole against comparing every pair, and the chance of being compared."""

import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest

from humpback.corpus import duplicates
from humpback.corpus.duplicates import BANDS, EXACT, KEPT, NEAR, ROWS, Part, find, row
from humpback.corpus.grams import gram_hashes, normalised
from humpback.errors import UserError
from humpback.records import Segment, record_id, to_json


def segment(key: int, text: str) -> Segment:
    return Segment(f"{key:016x}", text, "H", ("H",), "u", "s", 0, 1)


def write_part(folder: Path, name: str, segments: list[Segment]) -> Part:
    lines, rows, offset = [], [], 0
    for item in segments:
        line = to_json(item)
        lines.append(line)
        rows.append(row(item, offset, len(line)))
        offset += len(line)
    (folder / f"{name}.jsonl").write_bytes(b"".join(lines))
    np.save(folder / f"{name}.npy", np.array(rows, duplicates.ROW))
    return Part(folder / f"{name}.jsonl", folder / f"{name}.npy")


def verdicts(folder: Path, split: list[list[Segment]], **options) -> list[tuple[str, int]]:
    """(id, verdict) of every segment, sorted."""
    folder.mkdir(exist_ok=True)
    parts = [write_part(folder, str(number), segments) for number, segments in enumerate(split)]
    found = find(parts, **{"jaccard": 0.8, **options})
    segments = list(itertools.chain(*split))
    assert found.dtype == np.int8 and len(found) == len(segments)
    return sorted((s.id, int(v)) for s, v in zip(segments, found))


def words(count: int, start: int = 0) -> list[str]:
    return [f"w{i}" for i in range(start, start + count)]


def similarity(left: str, right: str) -> float:
    """The Jaccard similarity of the sets of word 5-grams, from their words themselves."""

    def grams(text: str) -> set[tuple[str, ...]]:
        found = normalised(text).split()
        return {tuple(found[i : i + 5]) for i in range(max(1, len(found) - 4))}

    return len(grams(left) & grams(right)) / len(grams(left) | grams(right))


def test_normalised() -> None:
    assert normalised("  Don’t\n\n- STOP, “now”… x_y ﬁn ²") == "don t stop now x y fin 2"
    assert normalised("Straße") == normalised("STRASSE")


def test_the_smallest_id_stays_whatever_the_order(tmp_path: Path) -> None:
    items = [segment(3, "One, two."), segment(1, "one  TWO"), segment(2, "One - two!"), segment(4, "One two three")]
    expected = [(f"{1:016x}", KEPT), (f"{2:016x}", EXACT), (f"{3:016x}", EXACT), (f"{4:016x}", KEPT)]
    for number, order in enumerate(itertools.permutations(items)):
        assert verdicts(tmp_path / str(number), [list(order[:2]), list(order[2:])]) == expected


def test_a_header_does_not_make_a_text_another_one(tmp_path: Path) -> None:
    other = Segment(f"{2:016x}", "same", "Other", (), "v", "t", 0, 1)
    assert [v for _, v in verdicts(tmp_path, [[segment(1, "same"), other]])] == [KEPT, EXACT]


def test_the_same_input_twice_leaves_one_of_each(tmp_path: Path) -> None:
    items = [segment(i, " ".join(words(50, 100 * i))) for i in range(5)]
    found = verdicts(tmp_path, [items, items, list(reversed(items))])
    assert [v for _, v in found] == [KEPT, EXACT, EXACT] * 5


def test_an_id_that_two_texts_share_by_chance_stays_once(tmp_path: Path) -> None:
    a, b = segment(7, "one text"), segment(7, "another text")
    stays = []
    for number, order in enumerate(([a, b], [b, a])):
        parts = [write_part(tmp_path, str(number), list(order))]
        stays.append([s.text for s, v in zip(order, find(parts, jaccard=0.8)) if v == KEPT])
    assert stays[0] == stays[1] and len(stays[0]) == 1


@pytest.mark.parametrize(
    ("own", "verdict"),
    # 36 of 45 5-grams in common is 0.8 exactly: 40 words in common, and `own` words of each text's own at its end
    [((4, 5), NEAR), ((5, 5), KEPT), ((0, 9), NEAR), ((0, 10), KEPT), ((9, 0), NEAR)],
)
def test_the_boundary(tmp_path: Path, own: tuple[int, int], verdict: int) -> None:
    left, right = (" ".join(words(40) + words(count, start)) for count, start in zip(own, (1_000, 2_000)))
    assert similarity(left, right) == (0.8 if verdict == NEAR else 36 / 46)
    parts = in_all_bands(tmp_path, [left, right])  # whether they are compared is chance at 0.8, whether they are similar is not
    assert find(parts, jaccard=0.8).tolist() == [KEPT, verdict]
    assert find(parts, jaccard=0.79).tolist() == [KEPT, NEAR if similarity(left, right) >= 0.79 else KEPT]


def test_texts_of_few_or_no_words(tmp_path: Path) -> None:
    items = [segment(1, "one two three"), segment(2, "one two three four"), segment(3, "…"), segment(4, "!")]
    assert [v for _, v in verdicts(tmp_path, [items])] == [KEPT, KEPT, KEPT, EXACT]
    assert len(gram_hashes(["one", "two"], 5)) == len(gram_hashes([""], 5)) == 1
    assert gram_hashes(["one", "two"], 5) != gram_hashes(["two", "one"], 5)


def test_nothing(tmp_path: Path) -> None:
    assert verdicts(tmp_path, []) == verdicts(tmp_path, [[], []]) == []


def mutated(source: list[str], chance: random.Random, share: float) -> list[str]:
    return [chance.choice(["x", "y", "z"]) + str(chance.random()) if chance.random() < share else word for word in source]


def families(chance: random.Random, count: int, members: int) -> list[Segment]:
    """Families of texts that are more or less alike, chains among them: each is a mutation of an earlier one."""
    found = []
    for number in range(count):
        texts = [words(chance.randint(8, 120), 1_000 * number)]
        while len(texts) < members:
            texts.append(mutated(chance.choice(texts), chance, chance.choice([0, 0.01, 0.02, 0.04, 0.08])))
        found += [Segment(record_id(f"{number}-{i}", 0, 1, ""), " ".join(t), "H", (), "u", "s", 0, 1) for i, t in enumerate(texts)]
    return found


def by_every_pair(segments: list[Segment], jaccard: float, compared: bool = True) -> list[tuple[str, int]]:
    """The rule, by comparing all pairs that share a band, or all pairs there are."""
    verdict, left = {}, {}
    for item in sorted(segments, key=lambda s: s.id):
        verdict[item.id] = EXACT if normalised(item.text) in left else KEPT
        left.setdefault(normalised(item.text), item)
    kept = list(left.values())
    bands = [set(enumerate(row(item, 0, 0)["bands"].tolist())) for item in kept]
    group = list(range(len(kept)))
    for i, j in itertools.combinations(range(len(kept)), 2):
        if (not compared or bands[i] & bands[j]) and similarity(kept[i].text, kept[j].text) >= jaccard:
            group = [group[i] if g == group[j] else g for g in group]
    for i, item in enumerate(kept):
        if i != group.index(group[i]):  # sorted by id, so the first of a group has its smallest
            verdict[item.id] = NEAR
    return sorted(verdict.items())


@pytest.mark.parametrize("block", [3, duplicates.BLOCK])  # 3: every family is a large group
@pytest.mark.parametrize("seed", range(3))
def test_the_rule_whatever_the_order_of_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, block: int) -> None:
    monkeypatch.setattr(duplicates, "BLOCK", block)
    monkeypatch.setattr(duplicates, "_CACHED_GRAMS", 500)
    chance = random.Random(seed)
    segments = families(chance, 6, 9)
    for shuffle in range(3):
        expected = by_every_pair(segments, jaccard := [0.8, 0.5, 1.0][shuffle])
        if jaccard < 1:
            assert {v for _, v in expected} == {KEPT, EXACT, NEAR}
        for attempt in range(2):
            chance.shuffle(segments)
            cuts = sorted(chance.sample(range(len(segments)), 3))
            split = [segments[a:b] for a, b in zip([0, *cuts], [*cuts, len(segments)])]
            assert verdicts(tmp_path / f"{shuffle}-{attempt}", split, jaccard=jaccard) == expected


def in_all_bands(folder: Path, texts: list[str], bands: int = BANDS) -> list[Part]:
    """A part whose rows are together in the first so many bands, and in no other, whatever they say."""
    part = write_part(folder, "a", [segment(number, text) for number, text in enumerate(texts)])
    rows = np.load(part.index)
    rows["bands"] = np.arange(len(rows) * BANDS).reshape(-1, BANDS)
    rows["bands"][:, :bands] = 0
    np.save(part.index, rows)
    return [part]


@pytest.fixture
def comparisons(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each row in turn was compared with."""
    found: list[int] = []
    really = np.add.reduceat

    class Add:
        @staticmethod
        def reduceat(values, starts, **options):
            found.append(len(starts))
            return really(values, starts, **options)

    monkeypatch.setattr(duplicates.np, "add", Add)
    return found


@pytest.mark.parametrize("order", [(60, 70, 82), (70, 82, 60), (82, 60, 70)])
def test_a_chain_from_a_small_text_to_a_large_one(tmp_path: Path, order: tuple[int, ...]) -> None:
    """The ends are too different in size to be compared, and are connected all the same."""
    texts = [" ".join(words(count)) for count in order]
    assert find(in_all_bands(tmp_path, texts), jaccard=0.8).tolist() == [KEPT, NEAR, NEAR]


def test_what_is_connected_is_not_compared_again(tmp_path: Path, comparisons: list[int]) -> None:
    parts = in_all_bands(tmp_path, [" ".join(words(90) + words(1, 1_000 + number)) for number in range(50)])
    assert find(parts, jaccard=0.8).tolist() == [KEPT] + [NEAR] * 49 and comparisons == [49]


@pytest.mark.parametrize(("block", "most"), [(duplicates.BLOCK, 1_200), (150, 5_000)])
def test_a_large_group_is_done_after_its_first_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, comparisons: list[int], block: int, most: int
) -> None:
    """600 copies of two pages, together in three bands: all pairs would be 180,000, those of unlike pages 90,000."""
    monkeypatch.setattr(duplicates, "BLOCK", block)
    pages = [words(80) + words(14, 1_000 * page) for page in (1, 2)]
    texts = [" ".join(pages[number % 2] + words(1, 5_000 + number)) for number in range(600)]
    assert similarity(texts[0], texts[2]) > 0.95 and similarity(texts[0], texts[1]) < 0.75
    assert find(in_all_bands(tmp_path, texts, 3), jaccard=0.8).tolist() == [KEPT, KEPT] + [NEAR] * 598
    assert sum(comparisons) <= 3 * most


def test_a_pair_is_compared_as_often_as_the_bands_promise() -> None:
    """2,000 random pairs of sets at each similarity; tolerated are four standard errors."""

    def expected_at(jaccard: float) -> float:
        return 1 - (1 - jaccard**ROWS) ** BANDS

    chance = np.random.default_rng(0)
    for common, own in ((240, 30), (200, 25), (150, 75)):  # J = 0.8, 0.8, 0.5
        expected, pairs, hits = expected_at(common / (common + 2 * own)), 2_000, 0
        for _ in range(pairs):
            grams = chance.integers(0, 2**64, common + 2 * own, np.uint64)
            left, right = (duplicates.band_keys(np.sort(s)) for s in (grams[: common + own], grams[own:]))
            hits += bool((left == right).any())
        assert abs(hits / pairs - expected) <= 4 * (expected * (1 - expected) / pairs) ** 0.5, (common, own, hits / pairs, expected)
    assert expected_at(0.8) == pytest.approx(0.9977, abs=1e-4)


def test_a_signature_is_the_same_everywhere() -> None:
    """Other numbers here mean another version of the MinHash: parts of before and after must not be mixed."""
    keys = row(segment(1, "The quick brown fox jumps over the lazy dog"), 0, 0)["bands"]
    assert [f"{key:016x}" for key in keys[[0, -1]]] == ["457797702f4654f4", "c77b5e636e5e9b72"]


def test_damaged_parts_are_named(tmp_path: Path) -> None:
    parts = [write_part(tmp_path, "a", [segment(i, " ".join(words(60) + [str(i)])) for i in range(3)])]
    content = Path(parts[0].lines).read_bytes()
    Path(parts[0].lines).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=rf"a\.jsonl: no segment at byte \d+ .* remove {tmp_path}/a\.\* and run"):
        find(parts, jaccard=0.8)
    Path(parts[0].index).write_bytes(Path(parts[0].index).read_bytes()[:-5])
    with pytest.raises(UserError, match=r"a\.npy: not a whole index"):
        find(parts, jaccard=0.8)
    np.save(parts[0].index, np.zeros(3))
    with pytest.raises(UserError, match="another version"):
        find(parts, jaccard=0.8)
    Path(parts[0].index).unlink()
    with pytest.raises(UserError, match=r"a\.npy: not a whole index"):
        find(parts, jaccard=0.8)


def test_progress(tmp_path: Path) -> None:
    heard = []
    items = [segment(i, json.dumps(i)) for i in range(7)]
    find([write_part(tmp_path, "a", items)], jaccard=0.8, progress=lambda done, of: heard.append((done, of)))
    assert heard[-1] == (7 * BANDS, 7 * BANDS) and heard == sorted(heard) and len(heard) >= BANDS

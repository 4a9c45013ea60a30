"""An exported dataset: what is in it, that it is the same each time, and that it can be made whole again."""

import json
import pathlib
import re
import shutil

import msgspec
import pyarrow.parquet
import pytest
from etils import epath

from humpback import config as configs
from humpback import prompts, storage
from humpback.commands import export as command
from humpback.corpus import readers, segments
from humpback.corpus.fields import Keys
from humpback.errors import UserError
from humpback.export import dataset, fill, rows
from humpback.records import Example, Likely, Page, write_shards
from tests.export import a_run

PLAIN = {"with_seed": False, "tags": False, "drop_emails": False}


def export(source, out, licence="", by_reference=False, **options):
    return command.export(epath.Path(source), epath.Path(out), {**PLAIN, **options}, licence, by_reference)


def filled(source, pages, out):
    return fill.fill(epath.Path(source), str(pages), epath.Path(out))


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def put_curated(folder, chosen):
    """Other pairs in the place of those that a run has curated."""
    for path in folder.glob("curated-*.jsonl"):
        path.unlink()
    write_shards(folder, "curated", chosen, len(chosen))


def table(folder):
    return pyarrow.parquet.read_table(folder / "data").to_pylist()


@pytest.fixture(scope="module")
def curated(tmp_path_factory):
    address = Example("f" * 16, "Who?", "Write to jane.doe@example.org today.", "augmented", "http://x", None)
    return a_run.make(tmp_path_factory.mktemp("run"), extra=[address])


def test_a_row_leads_back_to_its_page_and_models(curated, tmp_path):
    facts = export(curated, tmp_path / "out", with_seed=True)
    assert facts["kinds"] == {"augmented": 9, "seed": 3} and facts["rows_with_addresses"] == 1
    found = table(tmp_path / "out")
    segment, row = a_run.cut()[0], found[0]
    assert row["messages"] == [{"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": segment.text}]
    assert (row["id"], row["url"], row["source"], row["start"], row["end"]) == (
        segment.id, segment.url, segment.source, segment.start, segment.end
    )  # fmt: skip
    assert (row["iteration"], row["score"], row["rating_texts"], row["instruction_model"], row["rating_model"]) == (
        2, 4.0, ["Score: 4"], "myx", "m0"
    )  # fmt: skip
    assert [row["kind"] for row in found[-3:]] == ["seed"] * 3 and found[-1]["score"] is None
    whole = a_run.cut()
    assert [row["response"] for row in found[:8]] == [segment.text for segment in whole[:8]]


def test_two_exports_have_the_same_bytes_and_one_that_was_ended_goes_on(curated, tmp_path, monkeypatch):
    export(curated, tmp_path / "whole", with_seed=True)
    whole = contents(tmp_path / "whole")
    assert set(whole) == {"README.md", "checksums.json", "export.json", "data/train-00000-of-00001.parquet"}
    publish = storage.publish
    for ends_at in range(4):
        done = []

        def ending(path, data, *, replace=False, done=done, ends_at=ends_at):
            if len(done) == ends_at:
                raise KeyboardInterrupt
            done.append(path)
            return publish(path, data, replace=replace)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(storage, "publish", ending)
            export(curated, tmp_path / str(ends_at), with_seed=True)
        folder = tmp_path / str(ends_at)
        assert not (folder / "checksums.json").exists()
        for place in (folder, folder / "data"):  # what a kill leaves in the midst of a file
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{storage.TEMPORARY}0").write_bytes(b"half")
        export(curated, tmp_path / str(ends_at), with_seed=True)
        assert contents(tmp_path / str(ends_at)) == whole


def test_what_is_asked_for_and_nothing_else(curated, tmp_path):
    export(curated, tmp_path / "plain")
    card = (tmp_path / "plain" / "README.md").read_text()
    assert 'license: "other"' in card and "belongs to its authors" in card and "data/train-*.parquet" in card and '- "en"' in card
    assert not any(prompts.WEB_TAG in row["messages"][0]["content"] for row in table(tmp_path / "plain"))
    facts = export(curated, tmp_path / "asked", "cc-by-4.0", tags=True, with_seed=True, drop_emails=True)
    assert facts["dropped"] == {"an e-mail address": 1} and facts["rows"] == 11 and facts["rows_with_addresses"] == 0
    tags = [row["messages"][0]["content"].removeprefix(row["instruction"]) for row in table(tmp_path / "asked")]
    assert tags == [f" {prompts.WEB_TAG}"] * 8 + [f" {prompts.SEED_TAG}"] * 3
    assert 'license: "cc-by-4.0"' in (tmp_path / "asked" / "README.md").read_text()


@pytest.mark.parametrize("options", [{}, {"tags": True, "with_seed": True}])
def test_by_reference_has_no_text_of_a_page_and_is_filled_to_the_same_bytes(tmp_path, options):
    curated = a_run.make(tmp_path / "run")
    export(curated, tmp_path / "full", **options)
    export(curated, tmp_path / "reference", by_reference=True, **options)
    withheld = [row for row in table(tmp_path / "reference") if row["kind"] == "augmented"]
    assert len(withheld) == 8 and all(row[name] is None for row in withheld for name in ("messages", "response", "header", "header_path"))
    texts = [segment.text[:40].encode() for segment in a_run.cut()[:8]]
    assert not any(text in data for data in contents(tmp_path / "reference").values() for text in texts)
    filled(tmp_path / "reference", a_run.PAGES, tmp_path / "filled")
    assert contents(tmp_path / "filled") == contents(tmp_path / "full")


def test_the_bytes_of_each_row_cut_again_give_its_text(tmp_path):
    export(a_run.make(tmp_path / "run", 24), tmp_path / "full")
    cfg = configs.finish(configs.Config()).segments
    found = table(tmp_path / "full")
    for row in found:
        data = (a_run.PAGES / row["source"]).read_bytes()[row["start"] : row["end"]]
        page = Page(row["source"], row["url"], row["start"], row["end"], data)
        again = {segment.id: segment.text for segment in segments.extract(page, cfg, lambda reason, tree: None)}
        assert again[row["id"]] == row["response"] and rows.text_digest(row["response"]) == row["text_sha256"]
    assert len(found) == 24 and len({row["source"] for row in found}) > 1


def test_of_a_page_that_changed_the_rows_are_named(tmp_path):
    export(a_run.make(tmp_path / "run"), tmp_path / "reference", by_reference=True)
    shutil.copytree(a_run.PAGES, tmp_path / "pages")
    segment = a_run.cut()[3]
    page = tmp_path / "pages" / segment.source
    word = re.findall(r"[a-z]{6}", segment.text)[0]
    page.write_text(page.read_text().replace(word, word[::-1]))
    lost = [one.id for one in a_run.cut()[:8] if one.source == segment.source]
    with pytest.raises(UserError, match=f"{len(lost)} of 8 rows cannot be filled.*have changed: .*{re.escape(segment.source)}") as told:
        filled(tmp_path / "reference", tmp_path / "pages", tmp_path / "filled")
    assert all(name in str(told.value) for name in lost) and not (tmp_path / "filled").exists()


def test_the_answers_of_generate(tmp_path):
    folder = a_run.answers(tmp_path / "answers")
    facts = export(folder, tmp_path / "out")
    assert facts["rows"] == 3 and facts["dropped"] == {rows.EMPTY: 1, rows.NO_TEXT: 2}
    found = table(tmp_path / "out")
    assert [(row["id"], row["sample"], row["response"], row["log_prob"]) for row in found] == [
        ("1", 0, "So.", -1.5), ("2", 0, "A", -1.5), ("2", 1, "B", -2.0)
    ]  # fmt: skip
    turns = [("user", "Hi"), ("assistant", "Yes?"), ("user", "Why?"), ("assistant", "B")]
    assert [(turn["role"], turn["content"]) for turn in found[2]["messages"]] == turns and found[0]["model"] == "sha256 abc"


# What each trainer's loader of chats reads, by default, of a row; a column of another name has no meaning to it, one of these names has.
LOADERS = {
    "axolotl 0.19.0, chat_template": {"messages": "messages", "turn": {"role", "content"}, "other": {"system", "tools", "images"}},
    "torchtune 0.6.1, OpenAIToMessages": {"messages": "messages", "turn": {"role", "content"}, "other": set()},
    "TRL 1.16.0, SFTTrainer": {"messages": "messages", "turn": {"role", "content"}, "other": {"prompt", "completion", "text", "input_ids",
                               "labels", "images", "image", "tools", "chat_template_kwargs", "assistant_masks", "completion_mask"}},
}  # fmt: skip


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("kind", ["pairs", "answers"])
def test_other_trainers_find_what_they_read(tmp_path, kind, loader):
    """A conversation of at least two turns, the user's first, roles in turns, contents that are texts: torchtune refuses another one."""
    source = a_run.make(tmp_path / "run") if kind == "pairs" else a_run.answers(tmp_path / "answers")
    export(source, tmp_path / "out", with_seed=kind == "pairs")
    reads = LOADERS[loader]
    for row in table(tmp_path / "out"):
        assert not reads["other"] & row.keys()
        turns = row[reads["messages"]]
        assert all(turn.keys() == reads["turn"] and isinstance(turn["content"], str) and turn["content"] for turn in turns)
        assert [turn["role"] for turn in turns] == ["user", "assistant"] * (len(turns) // 2) and len(turns) >= 2


def test_what_is_refused(curated, tmp_path):
    with pytest.raises(UserError, match="neither a complete curated-T, nor a run"):
        export(tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match="seed: neither a complete curated-T"):
        export(curated.parent / "seed", tmp_path / "out")
    export(curated.parent, tmp_path / "out")  # of a run the last
    with pytest.raises(UserError, match="holds another export"):
        export(curated, tmp_path / "out", tags=True)
    with pytest.raises(UserError, match="nothing is to be filled"):
        filled(tmp_path / "out", a_run.PAGES, tmp_path / "filled")
    with pytest.raises(UserError, match="not a folder that `humpback export` made"):
        filled(tmp_path, a_run.PAGES, tmp_path / "filled")
    card = tmp_path / "out" / "README.md"
    card.write_text(card.read_text().replace("9 pairs", "8 pairs"))
    with pytest.raises(UserError, match=r"README\.md: damaged"):
        dataset.read_facts(epath.Path(tmp_path / "out"))


def test_the_command(humpback, curated, tmp_path):
    """From a run to a dataset by reference, and whole again."""
    def said(*arguments):
        done = humpback("export", *arguments)
        return done.returncode, done.stdout + done.stderr

    code, text = said(f"--source={curated}", f"--out={tmp_path / 'reference'}", "--by_reference", "--drop_emails")
    assert code == 0 and "8 rows (8 augmented)\n1 left out: an e-mail address\nno licence named" in text
    code, text = said("--fill", f"--source={tmp_path / 'reference'}", f"--input={a_run.PAGES}", f"--out={tmp_path / 'filled'}")
    assert code == 0 and text.splitlines()[-1] == str(tmp_path / "filled") and len(table(tmp_path / "filled")) == 8
    assert "--fill and --input go together" in said("--fill", f"--source={tmp_path}", f"--out={tmp_path}")[1]
    code, text = said(f"--source={curated}", f"--out={tmp_path / 'out'}", "--license=mit\n# `<b>`")
    assert code == 2 and "--license='mit\\n# `<b>`': a name such as cc-by-4.0" in text and not (tmp_path / "out").exists()


def test_a_card_says_that_the_model_learned_rewritings(curated, tmp_path):
    export(curated, tmp_path / "plain")
    run = tmp_path / "run"
    shutil.copytree(curated.parent, run)
    rewritten = run / curated.name.replace("curated", "rewritten")
    rewritten.mkdir()
    (rewritten / "manifest.json").write_text("{}")
    export(run / curated.name, tmp_path / "drafts")
    cards = [(tmp_path / name / "README.md").read_text() for name in ("plain", "drafts")]
    assert ["rewritings" in card for card in cards] == [False, True]


def test_large_exports_are_written_in_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "RECORDS_PER_SHARD", 5)
    export(a_run.make(tmp_path / "run", 12), tmp_path / "out")
    names = storage.list_files(tmp_path / "out" / "data")
    assert names == [f"train-{shard:05d}-of-00003.parquet" for shard in range(3)]
    assert [row["id"] for row in table(tmp_path / "out")] == [segment.id for segment in a_run.cut()[:12]]


def test_our_own_dataset_is_read_as_seed(curated, tmp_path):
    from humpback.datasets.seed_pairs import read_pairs

    export(curated, tmp_path / "out", with_seed=True)
    pairs, counts, unread = read_pairs(str(tmp_path / "out"))
    assert counts == {"kept": 12} and pairs[0].response == a_run.cut()[0].text and unread["kind"] == 12


def test_pairs_chosen_by_likelihood_lead_back_as_well(tmp_path):
    curated = a_run.make(tmp_path / "run")
    rated = [a_run.rated(segment, 4.0).candidate for segment in a_run.cut()[:8]]
    likely = [Likely(c.id, c, "", "m0", -8.0, -12.0, 8, number == 1) for number, c in enumerate(rated)]
    chosen = [Example(one.id, "Why?", one.candidate.segment.text, "augmented", "u", likely=one) for one in likely]
    put_curated(curated, chosen)
    export(curated, tmp_path / "full")
    found = table(tmp_path / "full")
    for row, segment in zip(found, a_run.cut(), strict=False):
        assert (row["source"], row["start"], row["end"], row["header"]) == (segment.source, segment.start, segment.end, segment.header)
    assert {row["score"] for row in found} == {None} and {row["likelihood"] for row in found} == {0.5}
    assert [row["likelihood_prompt_cut"] for row in found] == [False, True, *[False] * 6] and found[0]["instruction_model"] == "myx"
    export(curated, tmp_path / "reference", by_reference=True)
    filled(tmp_path / "reference", a_run.PAGES, tmp_path / "filled")
    assert contents(tmp_path / "filled") == contents(tmp_path / "full")


def test_pages_in_a_key_of_their_own_are_filled_from_it(tmp_path):
    """The run's segments.html_key is a part of how its pages were cut."""
    pages = [json.dumps({"page": path.read_text(), "text": "no"}) + "\n" for path in sorted(pathlib.Path(a_run.PAGES).glob("*.html"))]
    (tmp_path / "pages.jsonl").write_text("".join(pages))
    cfg = configs.finish(configs.Config(segments=configs.Segments(input=str(tmp_path / "pages.jsonl"), html_key="page"))).segments
    [unit] = readers.list_inputs(cfg.input)
    read = readers.read_pages(unit, lambda *_: None, print, Keys.of(cfg))
    found = [segment for page in read for segment in segments.extract(page, cfg, lambda *_: None)]
    curated = a_run.make(tmp_path / "run")
    chosen = [a_run.example(a_run.rated(segment, 4.0)) for segment in found[:3]]
    put_curated(curated, chosen)
    manifest = storage.read_json(tmp_path / "run" / "segments" / "manifest.json")
    manifest["config"]["segments.html_key"] = "page"
    (tmp_path / "run" / "segments" / "manifest.json").write_text(json.dumps(manifest))
    export(curated, tmp_path / "full")
    export(curated, tmp_path / "reference", by_reference=True)
    filled(tmp_path / "reference", tmp_path / "pages.jsonl", tmp_path / "filled")
    assert contents(tmp_path / "filled") == contents(tmp_path / "full") and len(table(tmp_path / "filled")) == 3


def test_rows_hold_every_field_of_the_records(tmp_path):
    """A field that a record gets one day must come into the dataset, too."""
    curated, rated = a_run.make(tmp_path), a_run.rated(a_run.cut()[0], 4.0)
    likely = Likely(rated.id, rated.candidate, "", "m0", -8.0, -12.0, 8)
    put_curated(curated, [msgspec.structs.replace(a_run.example(rated), likely=likely)])
    one = next(rows.pair_rows(curated, 2, False, False))
    assert set(one) == set(rows.PAIR_COLUMNS)
    assert pathlib.Path(one["source"]).suffix == ".html"

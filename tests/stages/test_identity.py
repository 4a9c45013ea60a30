"""What a folder was made from: written when something is made, refused with the field that was changed, and left alone when refused."""

import json
import pathlib
import shutil

import pytest

from humpback import storage
from humpback.errors import UserError
from humpback.stages import identity
from humpback.stages.base import convert_base
from humpback.stages.directory import Place, Stage
from humpback.stages.seed import seed
from humpback.stages.segment import segment
from tests.forks import Humpback


def tree(folder: pathlib.Path) -> dict[str, bytes]:
    """All files, but for what is compiled."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("stage", "field", "message"),
    [
        (seed, "seed_pairs.source", "no such file"),
        (segment, "segments.input", "no such file or folder"),
        (convert_base, "base.source", "no such file or folder"),
    ],
)
def test_a_try_that_failed_is_not_remembered(make_run, tmp_path, stage, field, message):
    with pytest.raises(UserError, match=message):
        stage(make_run(**{field.replace(".", "__"): str(tmp_path / "plian")}))
    assert not list((tmp_path / "run").glob("*/*"))
    stage(make_run())  # and not: was made with … = 'plian'


def test_nor_is_one_of_generate(inputs, tmp_path, humpback: Humpback):
    base = inputs[1].partition("=")[2]
    flags = [f"--out={tmp_path / 'out'}", "--length=64", "--max_new_tokens=2", "--slots=4", "--dtype=float32"]
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a"}\n{"promt": "b"}\n')
    (tmp_path / "good.jsonl").write_text('{"prompt": "a"}\n')
    done = humpback("generate", f"--model={base}", f"--input={tmp_path / 'bad.jsonl'}", *flags)
    assert done.returncode == 2 and "bad.jsonl:2" in done.stderr
    assert not list(tmp_path.glob("out/*"))
    done = humpback("generate", f"--model={base}", f"--input={tmp_path / 'good.jsonl'}", *flags)
    assert done.returncode == 0, done.stderr


def test_what_was_begun_without_making_anything_is_not_remembered(make_run, tmp_path):
    """A kill between stage.json and the first part; and what earlier versions left of a misspelt path."""
    seed(make_run())
    folder = tmp_path / "run" / "seed"
    for name in storage.list_files(folder):
        if name != identity.STAGE:
            (folder / name).unlink()
    (folder / f"{storage.TEMPORARY}1").write_text("half a part")
    seed(make_run(seed_pairs__limit=15))
    assert json.loads((folder / "stage.json").read_text())["config"]["seed_pairs.limit"] == 15


def test_equal_paths_written_differently_are_equal(make_run, tmp_path, monkeypatch):
    first = make_run()
    seed(first)
    source = pathlib.Path(first.cfg.seed_pairs.source)
    monkeypatch.chdir(source.parent)
    (tmp_path / "link").symlink_to(source.parent)
    around, link = source.parent / ".." / source.parent.name / "pairs.jsonl", tmp_path / "link" / "pairs.jsonl"
    for other in ("pairs.jsonl", "./pairs.jsonl", str(around), str(link)):
        seed(make_run(seed_pairs__source=other))


def three_stages(make_run, tmp_path):
    """base/ and seed/ as they are made, and two folders as if made of them."""
    made = make_run()
    convert_base(made)
    seed(made)
    for name, fields, inputs in (("backward", ("backward.",), ("base", "seed")), ("candidates", ("augment.",), ("backward",))):
        made.stage(name, fields, inputs).finish(counts={})
    return made


def test_a_refusal_names_the_field_and_all_folders_that_hang_on_it(make_run, tmp_path):
    three_stages(make_run, tmp_path)
    with pytest.raises(UserError) as refused:
        seed(make_run(seed_pairs__limit=15))
    assert str(refused.value) == (
        f"{tmp_path}/run/seed: was made with seed_pairs.limit = 16, now it is 15; put the old value back, use another directory, or "
        f"delete the folders that hang on it: seed, backward, candidates (in {tmp_path}/run)"
    )
    with pytest.raises(UserError, match=r"candidates: was made with augment.top_p = 0.9, now it is 0.5; .* or delete .*/candidates$"):
        make_run(augment__top_p=0.5).stage("candidates", ("augment.",), ("backward",))
    with pytest.raises(UserError, match=r"with backward.lr = 0.001, now it is 0.5; with backward.steps = 4, now it is 5"):
        make_run(backward__lr=0.5, backward__steps=5).stage("backward", ("backward.",), ("base", "seed"))


def test_a_field_of_a_folder_that_is_gone_is_named_by_what_was_made_of_it(make_run, tmp_path):
    """Not: was made from another seed/, after that was made anew."""
    three_stages(make_run, tmp_path)
    shutil.rmtree(tmp_path / "run" / "seed")
    with pytest.raises(UserError, match=r"backward: was made with seed_pairs.limit = 16, now it is 15; .*: backward, candidates "):
        make_run(seed_pairs__limit=15).check(["base", "seed", "segments", "backward", "candidates"])


def test_an_input_that_another_version_made_is_refused_with_what_hangs_on_it(make_run, tmp_path):
    made = three_stages(make_run, tmp_path)
    shutil.rmtree(tmp_path / "run" / "seed")
    made.stage("seed", ("seed_pairs.",)).finish(counts={"other": 1})
    with pytest.raises(UserError, match=r"backward: was made from another seed/ than is there now; .*: backward, candidates to make them"):
        made.stage("backward", ("backward.",), ("base", "seed"))


def test_a_field_that_is_newer_than_a_record_had_its_default(make_run, tmp_path):
    seed(make_run())
    for name in ("stage.json", "manifest.json"):
        record = json.loads((tmp_path / "run/seed" / name).read_text())
        del record["config"]["seed_pairs.single_reply"]
        record["config"]["seed_pairs.gone"] = 7
        (tmp_path / "run/seed" / name).write_text(json.dumps(record))
    seed(make_run())
    with pytest.raises(UserError, match=r"seed: was made with seed_pairs.single_reply = 'drop', now it is 'reviewed'"):
        seed(make_run(seed_pairs__single_reply="reviewed"))


def test_a_refused_command_changes_nothing(inputs, tmp_path, humpback: Humpback):
    """Neither config.json, nor an earlier folder that would have to be made first."""
    workdir = tmp_path / "run"
    for command in ("seed", "segment"):
        assert humpback(command, *inputs, f"--workdir={workdir}").returncode == 0
    shutil.rmtree(workdir / "seed")
    before = tree(workdir)
    assert json.loads(before["config.json"])["segments.limit"] == 12
    for command in ("run", "segment"):
        done = humpback(command, *inputs, f"--workdir={workdir}", "--config.segments.limit=11")
        assert done.returncode == 2 and "segments: was made with segments.limit = 12, now it is 11" in done.stderr, done.stderr
        assert tree(workdir) == before
    done = humpback("seed", *inputs, f"--workdir={workdir}", "--config.seed_pairs.limit=8")
    assert done.returncode == 0 and json.loads((workdir / "config.json").read_text())["seed_pairs.limit"] == 8


def test_of_generate_the_flag_that_was_given_is_named(tmp_path):
    """--length and --wrap follow from the model."""
    values = {"--model": "a", "--length": 512, "--wrap": True, "--top_k": 0}
    Stage(tmp_path / "out", values, {}, {}, place=Place(tmp_path / "out", values)).finish(counts={})
    for changed, named in (({"--model": "b", "--length": 2048, "--wrap": False}, "--model = 'a'"), ({"--length": 64}, "--length = 512")):
        other = values | changed
        with pytest.raises(UserError, match=f"out: was made with {named}, now it is [^;]*; put the old value back, use another d[^:]*$"):
            Stage(tmp_path / "out", other, {}, {}, place=Place(tmp_path / "out", other))


def test_the_config_is_written_with_the_first_thing_made(make_run, tmp_path):
    made = make_run()
    written = []
    made.place.at_begin.append(lambda: written.append(sorted(path.name for path in tmp_path.glob("run/*/*"))))
    seed(made)
    segment(made)
    assert written == [[]]

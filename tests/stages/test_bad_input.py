"""A user's mistake is one clear error that names the file or the field and the way out, and nothing made is damaged."""

import json
import re
import shutil

import pytest

from humpback.errors import UserError
from humpback.records import Candidate, Example, Rated, Segment, read_shards, write_shards
from humpback.stages import curate, finetune
from humpback.stages.base import convert_base
from humpback.stages.directory import Stage
from humpback.stages.run import run_all
from humpback.stages.seed import seed
from humpback.stages.segment import segment
from humpback.stages.summary import summarize
from tests import tiny


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["frobnicate"], "no command 'frobnicate'"),
        (["run"], "--config is missing"),
        (["run", "--config=tests/tiny_config.py"], "--workdir is missing"),
        (["run", "--config=tests/tiny_config.py", "--workdir=x", "--bogus=1"], "Unknown command line flag 'bogus'"),
        (["run", "--config=tests/tiny_config.py", "--workdir=x", "--config.augment.topp=1"], "did you mean augment.top_p?"),
        (["rum"], "no command 'rum'; did you mean run?"),
        (["run", "--config=tests/tiny_config.py", "--workdir=x", "--config.augment.top_p=high"], "could not convert"),
        (["run", "--config=tests/tiny_config.py", "--workdir=x", "--config.augment.top_p=7"], "config field augment.top_p: 7.0"),
        (["run", "--config=configs/nothing.py", "--workdir=x"], "humpback: --config: 'configs/nothing.py' is no file; for example"),
        (["run", "--config", "configs", "--workdir=x"], "humpback: --config: 'configs' is a folder; for example"),
        (["run", "--config=README.md", "--workdir=x"], "humpback: --config: README.md:"),
        (["run", "--config=configs/demo.py:big", "--workdir=x"], "humpback: configs/demo.py has no variant 'big'"),
        (["chat", "--model=nowhere"], "nowhere: no such model folder"),
        (["chat"], "humpback: --model is missing; for example humpback chat --model=runs/demo/forward-2\n"),
        (["run", "configs/demo.py"], "unexpected argument"),
    ],
)
def test_wrong_command_lines_end_with_code_2_and_no_traceback(arguments, message, humpback):
    done = humpback(*arguments)
    assert message in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"instruction": "a", "response": "b"}\n{"instruction": ', r"pairs.jsonl:2"),
        ('{"instruction": "a"}\n', r"pairs.jsonl:1.*response"),
        ('{"instruction": "a", "response": " "}\n', r"pairs.jsonl:1.*response"),
        ("[]\n", "no seed pair in it: it is empty"),
        (b"\xff\xff\n", r"pairs.jsonl:1"),
        ("", "it is empty"),
    ],
)
def test_malformed_seed_pairs_are_named_with_their_line(make_run, tmp_path, content, message):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        seed(make_run(seed_pairs__source=str(path), seed_pairs__held_out=0), strict=True)


def test_pages_that_cannot_be_used_are_counted_and_the_others_are_cut(make_run, tmp_path):
    pages = tmp_path / "pages"
    pages.mkdir()
    words = ["salt", "rain", "wood", "iron", "bread", "sand", "light", "glass"]
    body = " ".join(f"Sentence {i} about {word} is here." for i, word in enumerate(words * 2))
    (pages / "good.html").write_text(f"<h1>How things are made</h1><p>{body}</p>")
    (pages / "binary.html").write_bytes(bytes(range(256)) * 40)
    (pages / "utf8.html").write_bytes(b"<meta charset=utf-8><h1>Bad bytes here</h1><p>" + b"\xff\xfe\xfa " * 200 + b"</p>")
    (pages / "empty.html").write_bytes(b"")
    (pages / "large.html").write_bytes(b"<h1>Large</h1>" + b"<p>x</p>" * (50 * 2**20 // 8))
    run = make_run(segments__input=str(pages))
    segment(run)
    manifest = json.loads((run.workdir / "segments" / "manifest.json").read_text())
    kept = list(read_shards(run.workdir / "segments", "segments", Segment))
    assert [s.source for s in kept] == ["good.html"]
    assert sum(manifest["dropped"].values()) >= 4 and manifest["dropped"]["too large"] == 1


@pytest.mark.parametrize("field", ["seed_pairs__source", "seed_pairs__held_out_source", "seed_pairs__dev_source"])
def test_a_folder_without_pairs_is_told_with_its_field(make_run, tmp_path, field):
    message = "a folder without Parquet files and no saved dataset"
    with pytest.raises(UserError, match=f"config field {field.replace('__', '.')}: .*: {message}"):
        seed(make_run(**{field: str(tmp_path)}))


def test_what_nothing_could_be_rated_by_is_told_before_any_training(make_run, tmp_path):
    """Of a run whose ratings are there nobody asks."""
    (tmp_path / "long.txt").write_text("word " * 500)
    cases = [
        ({"curate__rubric_file": "/nowhere"}, "config field curate.rubric_file: '/nowhere': no such file"),
        ({"curate__rubric_file": str(tmp_path / "long.txt")}, "config field decoding.length: 160 tokens do not even hold the rubric"),
    ]
    for number, (fields, message) in enumerate(cases):
        run = make_run(tmp_path / f"run{number}", iterations=1, **fields)
        with pytest.raises(UserError, match=message):
            run_all(run)
        assert [path.name for path in sorted(run.workdir.iterdir()) if path.is_dir()] == ["base"]
        stage = Stage(run.workdir / "ratings-1", {}, {}, {})
        stage.finish(counts={})
        curate.check(run)


def test_an_empty_corpus_is_an_error(make_run, tmp_path):
    (tmp_path / "pages").mkdir()
    with pytest.raises(UserError, match=r"segments.input: .*pages.*there are no pages"):
        segment(make_run(segments__input=str(tmp_path / "pages")))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"base__source": ""}, "config field base.source"),
        ({"base__source": "/nowhere.gguf"}, "/nowhere.gguf: no such file"),
        ({"base__architecture": "llama_7b"}, "config field base.architecture: 'llama_7b'"),
        ({"base__architecture": "gpt"}, "not a known size"),
    ],
)
def test_wrong_base_weights(make_run, fields, message):
    with pytest.raises(UserError, match=message):
        convert_base(make_run(**fields))


def test_truncated_weights_and_another_sha256(make_run, inputs, tmp_path):
    source = inputs[1].split("=", 1)[1]
    broken = shutil.copytree(source, tmp_path / "broken")
    data = max((p for p in broken.glob("weights/**/*") if p.is_file()), key=lambda p: p.stat().st_size)
    data.write_bytes(data.read_bytes()[:-100])
    with pytest.raises(UserError, match=f"{data.name}.*damaged"):
        convert_base(make_run(base__source=str(broken)))
    file = tmp_path / "x.gguf"
    file.write_bytes(b"GGUF but short")
    with pytest.raises(UserError, match=r"x.gguf: sha256 is .*, expected 00"):
        convert_base(make_run(workdir=tmp_path / "other", base__source=str(file), base__sha256="00"))


def test_a_mesh_that_does_not_fit_the_devices_names_the_fields(make_run):
    with pytest.raises(UserError, match=r"config fields mesh\.\*: .*3"):
        make_run(mesh__tensor=3).mesh()


def test_a_tensor_axis_that_does_not_divide_the_model_is_one_error_at_the_start(make_run):
    for again in (False, True):
        with pytest.raises(UserError) as told:
            convert_base(make_run(mesh__tensor=3, decoding__tensor=16))
        both = r"config field mesh\.tensor: 3 does not divide .*; config field decoding\.tensor: 16 does not divide .* 4 heads"
        assert re.match(both, str(told.value))
        if not again:
            convert_base(make_run(mesh__tensor=4))  # the 2 key heads are computed twice


def test_pairs_too_long_for_the_row_are_counted_and_none_fitting_is_an_error(make_run):
    run = make_run(forward_seed__length=16)
    for stage in (convert_base, seed):
        stage(run)
    with pytest.raises(UserError, match=r"none of 16 examples fits into forward_seed\.length = 16"):
        finetune.finetune(run, "forward", 0)
    tokens, dropped = finetune.tokenize(
        [Example("0" * 16, "i", "word " * 500, "seed", ""), Example("1" * 16, "i", "word", "seed", "")],
        tiny.make_tokenizer(), "forward", "chatml", 256,
    )  # fmt: skip
    assert [t.id for t in tokens] == ["1" * 16] and dropped["too_long"] == 1


def rated(number: int, score: float | None) -> Rated:
    segment_ = Segment(f"{number:016x}", "text", "h", ("h",), "u", "s", 0, 1)
    return Rated(segment_.id, Candidate(segment_.id, segment_, "i", "", "m", 0), score, (), (), (), "", "m", 0)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([3.9, 2.0], r"no candidate is rated 4.5 or more \(the best of 2 valid ratings is 3.90\).*top_fraction"),
        ([None], "none of 1 candidates has a valid rating"),
    ],
)
def test_no_candidate_above_the_threshold_says_how_far_and_the_way_out(make_run, scores, message):
    run = make_run(curate__select="threshold")
    stage = Stage(run.workdir / "ratings-1", {}, {})
    made = [rated(i, score) for i, score in enumerate(scores)]
    stage.finish(counts={}, files=write_shards(stage.path, "ratings", made, len(made)))
    with pytest.raises(UserError, match=message):
        curate.select(run, 1)


def test_a_stage_without_its_inputs_names_them(make_run):
    with pytest.raises(UserError, match=r"candidates: not complete; run that stage first"):
        curate.rate(make_run(), 1)
    with pytest.raises(UserError, match=r"run: no stage is complete; `humpback run` makes them all"):
        summarize(make_run())


def test_a_changed_config_is_refused_with_the_field_named(make_run):
    seed(make_run())
    with pytest.raises(UserError, match=r"seed: was made with seed_pairs.limit = 16, now it is 15"):
        seed(make_run(seed_pairs__limit=15))
    seed(make_run(mesh__fsdp=2, decoding__slots=8))  # cannot change the result


def test_a_changed_input_is_refused_with_its_name(make_run, tmp_path):
    run = make_run()
    for stage in (convert_base, seed):
        stage(run)
    first = run.stage("x", ("seed",), ("seed",), module="")
    first.finish(counts={})
    shutil.rmtree(run.workdir / "seed")
    other = make_run(seed_pairs__limit=15)
    seed(other)
    with pytest.raises(UserError, match=r"x: was made with seed_pairs.limit = 16, now it is 15; .* or delete .*/x$"):
        other.stage("x", ("seed",), ("seed",), module="")

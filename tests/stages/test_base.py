"""base/: made of base.source, or a folder that `humpback convert` has put there."""

import json
import pathlib
import shutil

import pytest

from humpback.commands.convert import convert
from humpback.errors import UserError
from humpback.stages.base import convert_base
from tests import tiny


def manifest(run) -> dict:
    return json.loads((run.workdir / "base" / "manifest.json").read_text())


@pytest.fixture
def converted(make_run, tmp_path):
    """The source that the tests' runs have, converted into the run's base/."""
    source = make_run().cfg.base.source
    convert(source, str(tmp_path / "run" / "base"))
    return source


@pytest.mark.parametrize("named", [False, True])
def test_a_converted_folder_is_taken_and_its_digest_is_the_identity(make_run, tmp_path, converted, capsys, named):
    made = make_run(tmp_path / "other")
    convert_base(made)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "base").rglob("*")}
    run = make_run(base__source=converted if named else "")
    convert_base(run)
    assert manifest(run)["weights_sha256"] == manifest(made)["weights_sha256"] and manifest(run)["counts"] == {"weights": 21}
    assert all(path.stat().st_mtime_ns == time for path, time in before.items() if path.is_file())
    convert_base(make_run(base__source=""))
    assert "base: done before\n" in capsys.readouterr().err


def test_after_base_is_made_its_source_may_be_left_out(make_run, capsys):
    convert_base(make_run())
    convert_base(make_run(base__source=""))
    assert "base: done before\n" in capsys.readouterr().err


def test_a_converted_folder_that_is_another_model_is_refused(make_run, tmp_path, monkeypatch):
    monkeypatch.setattr(tiny, "EOS_PUSH", 5.0)
    convert(str(tiny.make_base(tmp_path / "another")), str(tmp_path / "run" / "base"))
    with pytest.raises(UserError, match=r"base: holds another model than config field base.source: .* \(head differs\); leave"):
        convert_base(make_run())
    convert_base(make_run(base__source=""))
    with pytest.raises(UserError, match=r"base: was made with base.source = '', now it is '.*base'; put back what it was"):
        convert_base(make_run())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"wrapper": "inst"}, "config field wrapper: 'inst', but .*base was converted with 'chatml'; convert it again with --wrapper=inst"),
        ({"base__architecture": "llama_7b"}, "config field base.architecture: 'llama_7b'"),
    ],
)
def test_one_that_does_not_fit_the_config_is_refused(make_run, converted, fields, message):
    with pytest.raises(UserError, match=message):
        convert_base(make_run(base__source="", **fields))


def test_one_that_is_not_finished_is_not_taken(make_run, tmp_path, converted):
    (tmp_path / "run" / "base" / "checksums.json").unlink()
    with pytest.raises(UserError, match=r"base.source: no weights are named; .* or put one there: humpback convert --source=… --target="):
        convert_base(make_run(base__source=""))


def test_a_conversion_is_not_made_beside_a_run_that_writes(make_run, tmp_path, monkeypatch):
    asked: list[pathlib.Path] = []
    run = make_run()
    run.place.take()
    monkeypatch.setattr("humpback.locks.Lock.acquire", lambda lock: asked.append(lock.path))
    convert(run.cfg.base.source, str(tmp_path / "run" / "base"))
    assert asked == [tmp_path / "run" / "lock"]


def test_the_command_makes_the_folder(inputs, tmp_path, humpback):
    done = humpback("base", *inputs, f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0 and "base: 21 weights" in done.stderr, done.stderr


def test_a_tokenizer_that_cannot_be_exported_is_refused_at_once(make_run, tmp_path, monkeypatch):
    """And not when the run's last model is to be taken away."""

    def refuse(*_):
        raise UserError("no such tokenizer.json can be made")

    monkeypatch.setattr("humpback.convert.chat_template._check_rendered", refuse)
    with pytest.raises(UserError, match="can be made"):
        convert_base(make_run())
    assert not (tmp_path / "run" / "base" / "weights").exists()


def test_where_the_weights_are_from_is_kept(make_run, tmp_path):
    source = shutil.copytree(make_run().cfg.base.source, tmp_path / "source")
    (source / "LICENSE").write_text("MIT License")
    convert_base(make_run(base__source=str(source)))
    assert (tmp_path / "run" / "base" / "LICENSE").read_text() == "MIT License"
    assert json.loads((tmp_path / "run" / "base" / "origin.json").read_text())["licence"] == "mit"

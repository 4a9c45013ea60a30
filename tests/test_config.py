import dataclasses
import pathlib
import re

import pytest

from humpback import config
from humpback.errors import UserError
from humpback.model.sizes import SIZES
from humpback.training import placement

ROOT = pathlib.Path(__file__).parent.parent
VARIANTS = [
    "configs/demo.py:ci", "configs/free_tpu.py:8b", "configs/free_tpu.py:int8",
    *(f"configs/{name}.py:lora" for name in ("demo", "llama_7b", "llama3_8b", "qwen3_8b")),
]  # fmt: skip
FILES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "configs").glob("*.py"))


def _get(path: str) -> config.Config:
    name, _, variant = path.partition(":")
    values: dict = {}
    exec((ROOT / name).read_text(), values)
    return values["get_config"](variant) if variant else values["get_config"]()


@pytest.mark.parametrize("path", [*FILES, *VARIANTS])
def test_every_config_builds(path):
    cfg = config.finish(_get(path))
    assert cfg.base.architecture in SIZES


@pytest.mark.parametrize("path", [path for path in FILES if not re.search("demo|real_pages|study|free", path)])
def test_the_papers_runs_have_the_papers_values(path):
    cfg = config.finish(_get(path))
    for task in (cfg.backward, cfg.forward_seed, cfg.forward):
        assert (task.lr, task.end_lr, task.weight_decay, task.dropout, task.length) == (1e-5, 9e-6, 0.1, 0.1, 2048)
        assert (task.batch, task.steps) == (0, 0)  # by the table
    assert (cfg.augment.temperature, cfg.augment.top_p, cfg.augment.max_new_tokens) == (0.7, 0.9, 256)
    assert (cfg.curate.mode, cfg.curate.select, cfg.curate.threshold, cfg.curate.samples) == ("sampled", "threshold", 4.5, 1)
    assert (cfg.iterations, cfg.wrapper, cfg.seed_pairs.limit) == (2, "chatml" if re.search("qwen|smollm", path) else "inst", 3200)
    assert (cfg.segments.min_chars, cfg.segments.max_chars) == (600, 3000)
    assert cfg.base.architecture == pathlib.Path(path).stem


def test_every_field_is_read_by_something():
    """A field that no module reads has no effect, whatever a user sets."""
    sources = [path for path in (ROOT / "humpback").rglob("*.py") if path.name != "config.py"]
    text = "\n".join(path.read_text() for path in sources)
    unread = [name for name, _ in config.leaves(config.Config()) if not re.search(rf"\.{name.split('.')[-1]}\b", text)]
    assert unread == []


def test_every_field_has_a_rule_and_a_reason():
    for name, item, default in config.fields(config.Config()):
        assert item.metadata["reason"], name
        assert item.metadata["rule"].allows(default), name
    free = {name for name, item, _ in config.fields(config.Config()) if item.metadata["rule"].text.startswith("anything: ")}
    assert free == {
        "base.source", "base.sha256", "base.architecture", "segments.input", "segments.max_chars", "segments.navigation",
        "segments.html_key", "segments.text_key", "segments.url_key",
        "segments.contamination", "seed_pairs.source", "seed_pairs.held_out_source", "seed_pairs.dev_source", "seed_pairs.contamination",
        "curate.rubric_file", "curate.judge_model",
        "backward.skip_spikes", "forward_seed.skip_spikes", "forward.skip_spikes",
    }  # fmt: skip


@pytest.mark.parametrize("field", [3, dataclasses.field(default=3), config.setting(3, config.at_least(0), "")])
def test_a_field_without_a_rule_or_a_reason_cannot_be_declared(field):
    with pytest.raises(TypeError, match=r"Part\.count has no rule or no reason"):
        type("Part", (config.Node,), {"__annotations__": {"count": int}, "count": field})


def test_finish_freezes_a_copy():
    cfg = config.Config()
    done = config.finish(cfg)
    cfg.augment.top_p = 0.5
    assert done.augment.top_p == 0.9
    with pytest.raises(AttributeError, match="frozen"):
        done.augment.top_p = 0.5
    with pytest.raises(AttributeError, match="frozen"):
        done.seed = 1


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("augment.top_p", 1.5, "above 0, at most 1"),
        ("augment.top_p", 0.0, "above 0, at most 1"),
        ("curate.top_p", 0.0, "above 0, at most 1"),
        ("curate.fraction", 0.0, "above 0, at most 1"),
        ("segments.near_jaccard", 0.0, "above 0, at most 1"),
        ("augment.top_p", "0.5", "not of type float"),
        ("wrapper", "jinja", "one of inst, chatml, plain"),
        ("iterations", 0, "at least 1"),
        ("backward.dropout", 1.0, "from 0 to 0.99"),
        ("forward.remat", "some", "one of found, none, dots, full"),
        ("decoding.slots", 2, "at least 4"),
        ("seed", -1, "from 0 to"),
        ("seed", True, "not of type int"),
        ("backward.eps", 0.0, "above 0"),
        ("forward.beta1", 1.0, "from 0 to below 1"),
        ("forward.beta2", 1.0, "from 0 to below 1"),
        ("forward.lr", float("inf"), "a finite number"),
        ("curate.temperature", float("nan"), "a finite number"),
        ("mesh.fsdp", -2, "at least 1, -1 for what is left over, or 0"),
        ("segments.max_code_share", 70.0, "from 0 to 1"),
        ("forward.batch", 2_048, "from 0 to 2047"),
        ("forward.length", 2**20 + 1, "from 8 to 1048576"),
        ("seed_pairs.language", "english", "ISO 639-1"),
        ("forward.dev_every", 5, "needs seed_pairs.dev_source"),
        ("segments.min_chars", 5000, "above max_chars"),
        ("segments.max_code_share", 1.5, "from 0 to 1"),
        ("forward.epochs", -1.0, "at least 0"),
        ("curate.mode", "expected+sampled", "one of sampled, expected, likelihood"),
        ("curate.mode", "likelihood", "no five levels for a threshold"),
        ("curate.beside", "expected", "'expected' is not another score than"),
        ("evaluation.sets", "faq.jsonl", "NAME=SOURCE,NAME=SOURCE"),
        ("evaluation.sets", "a=x,a=y", "each name once"),
        ("evaluation.sets", "held_out=x", "none of them held_out"),
        ("segments.language", "English", "a code of ISO 639-1"),
        ("backward.lora_names", "q,x", "some of q,k,v,o,gate,up,down"),
        ("backward.lora_names", "q,q", "each once"),
        ("backward.lora_names", "", "some of q,k,v,o,gate,up,down"),
        ("forward.lora_base", "float16", "one of float32, bfloat16, int8"),
        ("forward.lora_rank", -1, "at least 0"),
        ("forward_seed.beta2", -0.1, "from 0 to below 1"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(name, value, what):
    cfg = config.Config()
    *path, last = name.split(".")
    node = cfg
    for part in path:
        node = getattr(node, part)
    setattr(node, last, value)
    with pytest.raises(UserError, match=f"config field {name}: .*{what}"):
        config.finish(cfg)


def test_the_largest_batch_and_length_are_the_most_that_dropout_can_number():
    last = (config.MOST_EXAMPLES + 1) * placement.TOKEN_NUMBERS - 1  # of the last example's tokens, as make_rows numbers them
    assert last == 2**31 - 1 and config.MOST_TOKENS == placement.TOKEN_NUMBERS


def test_one_axis_of_the_mesh_takes_what_is_left():
    cfg = config.Config()
    cfg.mesh.data = -1
    assert config.settled_mesh(config.finish(cfg).mesh) == config.Mesh(data=-1, fsdp=1, tensor=1)
    cfg.mesh.fsdp = -1
    with pytest.raises(UserError, match=r"config field mesh\.data: -1 is what is left over, and mesh\.fsdp is -1, too"):
        config.finish(cfg)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("augment.topp", "augment.top_p"),
        ("augment.top_p", None),
        ("augment", None),
        ("forward.learning_rate", ""),
        ("forwrad.batch", "forward.batch"),
        ("max_new_token", "curate.max_new_tokens"),
        ("wraper", "wrapper"),
        ("decoding.slot", "decoding.slots"),
        ("seed.limit", "seed_pairs.limit"),
    ],
)
def test_an_unknown_field_is_told_with_the_nearest(name, near):
    told = config.unknown_field(name)
    if near is None:
        assert told == ""
    else:
        assert told.startswith(f"there is no config field '{name}'") and (not near or told.endswith(f"; did you mean {near}?"))


def test_what_is_compared_and_what_is_recorded():
    recorded = {name for name, _ in config.leaves(config.Config()) if not config.compared(name)}
    assert recorded == {
        "mesh.data", "mesh.fsdp", "mesh.tensor", "decoding.slots", "decoding.classes",
        "decoding.steps_per_visit", "decoding.prefill_tokens", "decoding.tensor", "decoding.processes_per_replica",
        "decoding.publish_seconds",
        *(f"{task}.{field}" for task in ("backward", "forward_seed", "forward")
          for field in ("checkpoint_every", "checkpoint_keep", "checkpoint_keep_every", "remat", "tokens_at_once")),
    }  # fmt: skip


def test_defaults_stand_in_one_place():
    """The three trainings share one dataclass, so a default cannot differ between them."""
    cfg = config.Config()
    assert dataclasses.asdict(cfg.backward) == dataclasses.asdict(cfg.forward_seed) == dataclasses.asdict(cfg.forward)


@pytest.mark.parametrize(("platform", "expected"), [("tpu", "bfloat16"), ("cpu", config.cpu_dtype())])
def test_a_type_may_follow_the_device(platform, expected, monkeypatch):
    cfg = config.Config()
    cfg.forward.compute_dtype = cfg.decoding.compute_dtype = config.DEVICE
    done = config.finish(cfg, platform)
    assert (done.forward.compute_dtype, done.decoding.compute_dtype) == (expected, expected)
    assert config.finish(cfg).forward.compute_dtype == "bfloat16", "what is planned is planned for TPUs"
    monkeypatch.setattr(config, "cpu_dtype", lambda: "float32")
    assert config.finish(cfg, "tpu").forward.compute_dtype == "bfloat16" and config.finish(cfg, "cpu").forward.compute_dtype == "float32"

"""The compiler's flags: by the machine's generation, and never over those that somebody has set."""

import pytest

from humpback import internals, metadata, tpu_flags


@pytest.mark.parametrize(
    ("kind", "generation"), [("v5litepod-16", "v5e"), ("v5e-8", "v5e"), ("v4-32", "v4"), ("v5p-8", "v5p"), ("v6e-256", "v6e"), ("v9-8", "")]
)
@pytest.mark.parametrize("told_by", ["variable", "server"])
def test_the_generation_decides(monkeypatch, kind, generation, told_by):
    monkeypatch.setattr(internals, "on_tpu_machine", lambda: True)
    monkeypatch.setattr(metadata, "tpu", lambda: {"tpu-env": f"ZONE: 'z'\nACCELERATOR_TYPE: '{kind}'\n"} if told_by == "server" else {})
    environment = {"TPU_ACCELERATOR_TYPE": kind} if told_by == "variable" else {}
    tpu_flags.set_flags(environment)
    assert environment.get(tpu_flags.VARIABLE, "").split() == list(tpu_flags.FLAGS.get(generation, ()))


def test_a_users_own_flags_stay_and_no_other_machine_gets_any(monkeypatch):
    environment = {"TPU_ACCELERATOR_TYPE": "v5p-8"}
    tpu_flags.set_flags(environment)  # no TPU is here
    monkeypatch.setattr(internals, "on_tpu_machine", lambda: True)
    own, cpu = {**environment, tpu_flags.VARIABLE: "--own"}, {**environment, "JAX_PLATFORMS": "cpu"}
    tpu_flags.set_flags(own)
    tpu_flags.set_flags(cpu)
    assert tpu_flags.VARIABLE not in environment | cpu and own[tpu_flags.VARIABLE] == "--own"

"""What one process of a simulated pod has compiled serves the others."""

import jax
import numpy as np
import pytest
from jax._src import cache_key, monitoring
from jax.experimental.compilation_cache import compilation_cache

from humpback import internals
from humpback.errors import UserError
from humpback.stages import commandline


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty compilation cache, and the key's parts as they were afterwards."""
    for name in ("_hash_serialized_compile_options", "_hash_accelerator_config"):
        monkeypatch.setattr(cache_key, name, getattr(cache_key, name))
    values = {"jax_compilation_cache_dir": str(tmp_path), "jax_persistent_cache_min_compile_time_secs": 0.0}
    before = {name: getattr(jax.config, name) for name in values}
    for name, value in values.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.mark.parametrize("shared", [False, True])
def test_a_program_for_another_device_is_found(cache, shared):
    if shared:
        internals.share_cache_keys()
    events = []

    def listen(event, **_):
        events.append(event)

    monitoring.register_event_listener(listen)
    try:
        made = []
        for device in jax.devices()[:2]:
            jax.clear_caches()  # as another process would begin
            events.clear()
            made.append(jax.jit(lambda x: x * 3.0 + 1.0)(jax.device_put(np.float32(2.0), device)))
            assert made[-1].devices() == {device}
    finally:
        monitoring.unregister_event_listener(listen)
    assert [float(x) for x in made] == [7.0, 7.0]
    assert ("/jax/compilation_cache/cache_hits" in events) == shared


@pytest.mark.parametrize(
    ("backend", "version", "refused"), [("tpu", (3, 11, 7), True), ("tpu", (3, 12, 1), False), ("cpu", (3, 11, 7), False)]
)
def test_a_tpu_wants_a_python_with_a_new_compiler(monkeypatch, backend, version, refused):
    monkeypatch.setattr(commandline.sys, "version_info", version)
    if refused:
        with pytest.raises(UserError, match=r"Python 3\.11\.7 on a TPU: .* use 3\.12 or newer"):
            commandline.check_python(backend)
    else:
        commandline.check_python(backend)

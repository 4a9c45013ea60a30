"""What is used of JAX, gcsfs and fsspec beside their promises: there in this version, told where it is not, and used in one place."""

import ast
import importlib
import inspect
import pathlib
import re

import pytest

from humpback import internals
from humpback.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize("package", internals.USED)
def test_these_versions_have_it(package):
    pytest.importorskip(package)
    internals.check(package)


def test_what_is_replaced_has_these_parameters():
    options = internals.get("jax._src.cache_key", "_hash_serialized_compile_options")
    assert "strip_device_assignment" in inspect.signature(options).parameters
    devices, accelerators = (internals.get("jax._src.cache_key", f"_hash_{name}") for name in ("devices", "accelerator_config"))
    assert len(inspect.signature(devices).parameters) == len(inspect.signature(accelerators).parameters)


@pytest.mark.parametrize("gone", ["module", "name"])
def test_another_version_is_told(gone, monkeypatch):
    if gone == "name":
        monkeypatch.delattr(importlib.import_module("jax._src.distributed"), "global_state")
    else:
        monkeypatch.setitem(internals.USED["jax"], "jax._src.nowhere", ["global_state"])
    module = "jax._src.distributed" if gone == "name" else "jax._src.nowhere"
    with pytest.raises(UserError, match=rf"^jax [\d.]+ has no {re.escape(module)}.global_state, .* launch/constraints.txt"):
        internals.get(module, "global_state")
    with pytest.raises(UserError, match="has no"):
        internals.check("jax")
    with pytest.raises(KeyError, match="not in humpback"):
        internals.get("jax._src.distributed", "State")


def test_no_other_module_uses_such_things():
    for path in sorted((ROOT / "humpback").rglob("*.py")):
        if path.name == "internals.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [name.name for name in node.names] if isinstance(node, ast.Import) else []
            assert not any("._" in module or (module.startswith("_") and module != "__future__") for module in modules), (path, modules)
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and isinstance(node.value, (ast.Attribute, ast.Name)):
                root = node.value
                while isinstance(root, ast.Attribute):
                    root = root.value
                name = root.id if isinstance(root, ast.Name) else ""
                assert name not in ("jax", "gcsfs", "fsspec", "asyn", "ocp", "flax", "nnx", "optax"), f"{path}:{node.lineno}: {node.attr}"

"""What is used of JAX, gcsfs and fsspec beside what they promise: looked up here and nowhere else, by name, when it is needed.

Where another version has it no longer, the error names the package, the version, and those that were tested.
"""

import functools
import importlib
import importlib.metadata
import os
from typing import Any

from humpback.errors import UserError

# package → module → names; launch/constraints.txt has the versions that have them, setup.py the bounds.
USED = {
    "jax": {
        "jax._src.distributed": ["global_state"],  # its client is not public; Orbax takes it from there, too
        "jax._src.cloud_tpu_init": ["running_in_cloud_tpu_vm"],
        "jax._src.hardware_utils": ["num_available_tpu_chips_and_device_id"],
        "jax._src.cache_key": ["_hash_serialized_compile_options", "_hash_accelerator_config", "_hash_devices"],
    },
    "gcsfs": {
        # What humpback.gcs calls or overrides; `__wrapped__` is one request without gcsfs' own attempts.
        "gcsfs.core": [
            f"GCSFileSystem.{name}"
            for name in ("_request.__wrapped__", "_mkdir", "_makedirs", "_info", "_isdir", "_delete_files", "_rm_file", "_strip_protocol",
                         "split_path", "_get_object", "_get_directory_info", "_call", "_location")
        ],
        "gcsfs.retry": ["is_retriable"],
    },
    "fsspec": {"fsspec.asyn": ["_run_coros_in_chunks", "sync_wrapper"]},
}  # fmt: skip


def get(module: str, name: str) -> Any:
    """An object of USED. UserError when this version of the package does not have it."""
    package = module.partition(".")[0]
    if name not in USED[package][module]:
        raise KeyError(f"{module}.{name} is not in humpback.internals.USED")
    try:
        return functools.reduce(getattr, name.split("."), importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"{package} {importlib.metadata.version(package)} has no {module}.{name}, which humpback needs; install the versions that "
            "were tested: pip install -c launch/constraints.txt -e ."
        ) from error


def check(package: str) -> None:
    """UserError when something of USED is missing in the package."""
    for module, names in USED[package].items():
        for name in names:
            get(module, name)


def coordination_client() -> Any:
    """The client of JAX's coordination service; None in a process that is alone."""
    return get("jax._src.distributed", "global_state").client


def on_tpu_machine() -> bool:
    """Whether JAX has found TPU chips and libtpu here, and nobody has forbidden to ask the metadata server of it."""
    return get("jax._src.cloud_tpu_init", "running_in_cloud_tpu_vm") and "TPU_SKIP_MDS_QUERY" not in os.environ


def tpu_chips() -> int:
    """How many TPU chips are on this machine's PCI bus, whether or not there is a libtpu for them."""
    return get("jax._src.hardware_utils", "num_available_tpu_chips_and_device_id")()[0]


def share_cache_keys() -> None:
    """Leaves a process' own view of the devices and their numbers out of what a compiled program is found by, as JAX does for GPUs.

    What is in a program's key has no public setting.
    """
    module = "jax._src.cache_key"
    hash_options, hash_devices = (get(module, name) for name in ("_hash_serialized_compile_options", "_hash_devices"))
    get(module, "_hash_accelerator_config")
    cache_key: Any = importlib.import_module(module)
    cache_key._hash_serialized_compile_options = lambda digest, options, **_: hash_options(digest, options, strip_device_assignment=True)
    cache_key._hash_accelerator_config = hash_devices

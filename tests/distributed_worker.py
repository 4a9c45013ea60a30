"""A process for the tests of humpback.distributed: a command beside the real ones, which takes a moment and needs no model.

`python -m tests.distributed_worker work --task=NAME`; HUMPBACK_RENDEZVOUS_SECONDS (here 30) is how long it waits for the others.
"""

import os
import pathlib
import time

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils

import humpback.cli
from humpback import distributed
from humpback.errors import Stopped, UserError


def define_flags() -> None:
    """--task and, for differences, --seed; the tests wait for a file with the process' id in --folder."""
    flags.DEFINE_string("task", None, "a function below")
    flags.DEFINE_integer("seed", 1, "nothing")
    flags.DEFINE_string("folder", None, "where process INDEX writes its id, as INDEX")


def main() -> None:
    """Runs the task when all are up."""
    distributed.barrier("up")
    if flags.FLAGS.folder:
        path = pathlib.Path(flags.FLAGS.folder) / str(jax.process_index())
        path.with_suffix(".part").write_text(str(os.getpid()))
        path.with_suffix(".part").rename(path)
    TASKS[flags.FLAGS.task]()


def meet() -> None:
    """Says what there is, passes one name twice, and misses one barrier."""
    for _ in range(2):
        distributed.barrier("same name", 20)
    print(f"{jax.process_count()} processes, {jax.device_count()} devices, {jax.local_device_count()} here", flush=True)
    for size in (1, 2):
        replica = distributed.replica_layout(size)
        print(f"replica {replica.index} of {replica.count}: {[d.id for d in replica.devices]} {replica.is_first}", flush=True)
        assert len({d.process_index for d in replica.devices}) == size
    for size in (0, 3):
        try:
            distributed.replica_layout(size)
        except UserError as error:
            print(error, flush=True)
    if distributed.is_first():
        try:
            distributed.barrier("alone", 0.5)
        except TimeoutError as error:
            print(error, flush=True)
    distributed.barrier("last", 20)


def wait() -> None:
    """Waits for what never comes, in different ways."""
    if distributed.is_first():
        distributed.barrier("never", 60)
    else:
        time.sleep(60)


def reduce() -> None:
    """Exchanges numbers between devices for ever."""
    while True:
        multihost_utils.process_allgather(np.zeros(1))


def fail_alone() -> None:
    """The second process has a mistake of the user's to report, the first one waits for it."""
    if not distributed.is_first():
        raise UserError("a mistake that only one process can see")
    distributed.barrier("never", 60)


def fail_together() -> None:
    """All have the same mistake to report."""
    raise UserError("a mistake that all can see")


def stop() -> None:
    """Says on what the processes agree when nobody, the first, the second or all of them want to stop; then all do."""
    print(f"{jax.process_count()} processes", flush=True)
    index = jax.process_index()
    with jax.set_mesh(jax.make_mesh((jax.device_count(),), ("data",))):  # as in a training
        print([distributed.agree(flag) for flag in (False, index == 0, index == 1, True)], flush=True)
    raise Stopped("stopped, and nothing is lost")


TASKS = {task.__name__: task for task in (meet, wait, reduce, fail_alone, fail_together, stop)}

if __name__ == "__main__":
    humpback.cli.COMMANDS["work"] = humpback.cli.Command("tests.distributed_worker", "", "")
    os.environ.setdefault("HUMPBACK_RENDEZVOUS_SECONDS", "30")
    humpback.cli.main()

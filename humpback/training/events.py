"""Metrics rows as TensorBoard events, where tensorboardX is installed (extra `tensorboard`).

TensorBoard reads its files while they grow, so these are written by tensorboardX and not by storage.publish. No result depends on
them: a file that a kill has cut off is read up to there, and metrics.jsonl holds the same numbers. On gs:// nothing can grow, so the
file grows on this machine, and each flush publishes it whole.
"""

import importlib.util
import numbers
import os
import pathlib
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from humpback import distributed, storage

FLUSH_SECONDS = 30.0  # on gs:// a flush uploads the whole file


class Events:
    """`write(row)` puts a row into a new events file in `folder`. Nothing happens without tensorboardX, nor in other processes
    than the first.

    The first row opens the file. Of what earlier files in the folder say, TensorBoard then shows only the steps before that
    row's (SummaryWriter's purge_step): a run that was stopped and repeats some steps since its checkpoint shows each once.
    """

    def __init__(self, folder: storage.PathLike) -> None:
        self._folder = str(folder)
        self._active = importlib.util.find_spec("tensorboardX") is not None and distributed.is_first()
        self._writer: Any = None
        self._flushed = 0.0
        self._local: tempfile.TemporaryDirectory | None = None  # where the file grows that goes to gs://

    def write(self, row: Mapping[str, Any]) -> None:
        """Each numeric field of the row under its own name, at row["step"]; truth values and texts are no numbers here.

        OSError when the file cannot be written.
        """
        if not self._active:
            return
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        step, now = int(row["step"]), time.time()
        if self._writer is None:
            if not storage.is_local(self._folder):
                self._local = tempfile.TemporaryDirectory(prefix="humpback-events-")
            self._writer = _open(self._local.name if self._local else self._folder, step, now)
        values = {name: value for name, value in row.items() if name != "step" and _is_number(value)}
        scalars = [Summary.Value(tag=name, simple_value=float(value)) for name, value in values.items()]
        self._writer.write_event(Event(wall_time=now, step=step, summary=Summary(value=scalars)))
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Puts on disk what was written. Belongs beside each checkpoint, from which a killed run continues."""
        if self._writer is not None:
            self._writer.flush()
            self._publish()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Flushes and closes the file; a later row opens another one."""
        if self._writer is not None:
            self._writer.close()
            self._publish()
            self._writer = None
            if self._local:
                self._local.cleanup()
                self._local = None

    def _publish(self) -> None:
        if self._local:
            for file in pathlib.Path(self._local.name).iterdir():
                storage.publish(f"{self._folder}/{file.name}", storage.read_chunks(file), replace=True)


def _open(folder: str, step: int, now: float) -> Any:
    # Not SummaryWriter, whose rows pass through a queue to a thread: that thread dies of a full disk without a word, and the
    # training would wait for ever for room in the queue. Nor does its flush wait for the queue.
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.record_writer import directory_check

    directory_check(folder)
    # Beside the second in which it was opened the file's name has the step, lest it overwrite the one before.
    writer = EventsWriter(os.path.join(folder, "events"), filename_suffix=f".{step:08d}")
    writer.write_event(Event(wall_time=now, step=step, session_log=SessionLog(status=SessionLog.START)))
    return writer


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)

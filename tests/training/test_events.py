"""TensorBoard events, read back from their files with the protocol's own classes."""

import contextlib
import os
import pathlib
import struct
import sys

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from humpback import distributed
from humpback.training import events
from humpback.training.events import Events


def read_events(path: pathlib.Path) -> list[Event]:
    """A TFRecord file: length uint64, its checksum uint32, the event, its checksum uint32, and so on."""
    data, place, found = path.read_bytes(), 0, []
    while place < len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        body = data[place + 12 : place + 12 + length]
        checksums = struct.unpack_from("<I", data, place + 8) + struct.unpack_from("<I", data, place + 12 + length)
        assert checksums == (masked_crc32c(data[place : place + 8]), masked_crc32c(body))
        found.append(Event.FromString(body))
        place += 16 + length
    return found


def shown(folder: pathlib.Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows: each tag's (step, value); a START drops what earlier files say of its step and later ones."""
    tags: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(folder.iterdir()):
        first, *rest = read_events(path)
        assert first.file_version == "brain.Event:2" and path.name.startswith("events.out.tfevents.")
        for event in rest:
            assert event.wall_time > 1.7e9
            if event.session_log.status == SessionLog.START:
                tags = {tag: [(step, value) for step, value in points if step < event.step] for tag, points in tags.items()}
            for value in event.summary.value:
                tags.setdefault(value.tag, []).append((event.step, value.simple_value))
    return tags


def test_numbers_are_written_under_their_names(tmp_path):
    written = Events(tmp_path / "new" / "folder")
    written.write({"step": 1, "loss": 2.5, "tokens": 7, "lr": np.float32(0.5), "name": "x", "spike": True, "none": None})
    written.write({"step": 2, "loss": float("inf"), "dev_loss": np.float64(1.25)})
    written.close()
    assert shown(tmp_path / "new" / "folder") == {
        "loss": [(1, 2.5), (2, float("inf"))], "tokens": [(1, 7.0)], "lr": [(1, 0.5)], "dev_loss": [(2, 1.25)],
    }  # fmt: skip


def test_a_run_that_continues_shows_each_step_once(tmp_path):
    for steps, loss in (((1, 2, 3, 4, 5), 1.0), ((4, 5, 6), 2.0)):  # the last checkpoint was of step 3
        written = Events(str(tmp_path))
        for step in steps:
            written.write({"step": step, "loss": loss})
        written.close()
    assert len(list(tmp_path.iterdir())) == 2
    assert shown(tmp_path) == {"loss": [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0), (5, 2.0), (6, 2.0)]}


def test_what_is_on_disk_before_the_end(tmp_path, monkeypatch):
    def steps() -> int:
        return len(shown(tmp_path).get("loss", ()))

    written = Events(tmp_path)
    written.flush()  # before the first row there is nothing
    assert list(tmp_path.iterdir()) == []
    for step in (1, 2, 3):
        written.write({"step": step, "loss": 1.0})
    written.flush()
    assert steps() == 3
    written.write({"step": 4, "loss": 1.0})
    assert steps() == 3
    monkeypatch.setattr(events, "FLUSH_SECONDS", 0.0)
    written.write({"step": 5, "loss": 1.0})
    assert steps() == 5
    written.close()
    written.close()


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "is_first", lambda: False)
    written = Events(tmp_path / "folder")
    written.write({"step": 1, "loss": 2.5})
    written.close()
    assert not (tmp_path / "folder").exists()


def test_without_tensorboardx_nothing_happens(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)  # an import of it raises
    written = Events(tmp_path / "folder")
    written.write({"step": 1, "loss": 2.5})
    written.flush()
    written.close()
    assert not (tmp_path / "folder").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no such device here")
def test_a_full_disk_is_an_error(tmp_path, monkeypatch):
    written = Events(tmp_path)
    written.write({"step": 1, "loss": 2.5})
    with contextlib.suppress(OSError), open("/dev/full", "wb") as full:  # which fails again when it is closed
        monkeypatch.setattr(written._writer._py_recordio_writer, "_writer", full)
        written.write({"step": 2, "loss": 2.5})
        with pytest.raises(OSError, match="No space left"):
            written.flush()

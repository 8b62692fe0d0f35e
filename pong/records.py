"""Files that whole records are added to, however full the disk is: lines of text, or TensorBoard's events."""

import contextlib
import io
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]


class Records:
    """A file to which whole records are added. What can't be written waits, and no half of it stays.

    Raises:
        OSError: it can't be opened.
    """

    def __init__(self, path: Path):
        self._file = path.open("ab", buffering=0)
        self._end = self._file.tell()
        self._waiting = b""

    def add(self, record: bytes) -> None:
        """Write a record, and before it those that wait.

        Raises:
            OSError: it can't be written, and waits.
        """
        self._waiting += record
        rest = memoryview(self._waiting)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(self._end)
            raise
        self._end += len(self._waiting)
        self._waiting = b""

    def sync(self) -> None:
        """Have it all on the disk.

        Raises:
            OSError: some of it isn't.
        """
        self.add(b"")
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


class Events(Records):
    """TensorBoard's event file of one start of a run.

    Its own writer would hand events to a thread, which writes them up to two minutes later, if nobody kills it.

    Args:
        folder: of the run.
        purge_step: TensorBoard forgets what earlier files say of this step and those after it.

    Raises:
        OSError: it can't be made.
    """

    def __init__(self, folder: Path, purge_step: int):
        parts = [path.name.split(".") for path in folder.glob("events.out.tfevents.*")]
        before = max((int(part[3]) for part in parts if part[3].isdecimal()), default=0)
        now = max(int(time.time()), before + 1)  # files are read in the order of their names, whatever the clock says
        super().__init__(folder / f"events.out.tfevents.{now:010d}.pong")
        self.add(_event(file_version="brain.Event:2"))
        self.add(_event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))

    def summaries(self, made: Iterable[Any], step: int) -> None:
        """What torch's ``summary`` functions make, and ``scalars``; what can't be written waits together."""
        self.add(b"".join(_event(summary=one, step=step) for one in made))


def scalars(values: dict[str, float]) -> Any:
    """A number for each tag, as TensorBoard's summary."""
    return Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])


def _event(**what: Any) -> bytes:
    record = io.BytesIO()
    RecordWriter(record).write(Event(wall_time=time.time(), **what).SerializeToString())
    return record.getvalue()

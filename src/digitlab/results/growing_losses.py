"""Reads the training losses of single mini-batches from the event files of a run that may still write them.

``watch`` shows them. It does not import torch. Each update reads only the bytes that are new.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[attr-defined]  # created at import
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

from digitlab.results.events import LOSS_TAG, curves_folder, event_files
from digitlab.results.folder import RunFolder

# A record of an event file: uint64 length, uint32 checksum of the length, the data, uint32 checksum of the data.
_HEADER, _LENGTH, _CHECKSUM = struct.Struct("<QI"), struct.Struct("<Q"), struct.Struct("<I")
# Records of single numbers are much shorter than this. Longer ones contain pictures and histograms and are skipped.
_LONGEST_BYTES = 512


class GrowingLosses:
    """The training losses of single mini-batches of ``run``; ``losses`` maps steps to losses, in order of the steps.

    If two event files contain the same step, the later file counts. If the last record is not complete yet, the next
    ``update`` reads it. If a record is damaged, the rest of its file is ignored.
    """

    def __init__(self, run: RunFolder) -> None:
        self.losses: dict[int, float] = {}
        self._run = run
        self._positions: dict[str, int] = {}

    def update(self) -> None:
        """Read the new records; read all files again if a resumed run has truncated or removed one."""
        folder = curves_folder(self._run.path, "train")
        files = {name: path for name, path in event_files(self._run.path) if path.parent == folder}
        sizes = {name: path.stat().st_size for name, path in files.items()}
        if any(sizes.get(name, 0) < position for name, position in self._positions.items()):
            self.losses, self._positions = {}, {}
        count_before = len(self.losses)
        for name, path in files.items():
            if sizes[name] > self._positions.get(name, 0):
                self._read(name, path, sizes[name])
        # A later file can contain earlier steps.
        if len(self.losses) > count_before:
            self.losses = dict(sorted(self.losses.items()))

    def _read(self, name: str, path: Path, size: int) -> None:
        with path.open("rb") as file:
            file.seek(self._positions.get(name, 0))
            for data in _records(file, size):
                # A record that was skipped counts as an event without values.
                event = Event.FromString(data) if data else Event()
                for value in event.summary.value:
                    if value.tag == LOSS_TAG:
                        self.losses[event.step] = value.simple_value
                self._positions[name] = file.tell()


def _records(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield the data of each complete record in the first ``size`` bytes; b"" in place of a long record.

    Whenever it yields, the position of ``file`` is the end of that record.
    """
    while (position := file.tell()) + _HEADER.size <= size:
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size:
            return  # a resumed run has truncated the file in the meantime
        length, checksum = _HEADER.unpack(header)
        end = position + _HEADER.size + length + _CHECKSUM.size
        if checksum != masked_crc32c(_LENGTH.pack(length)) or end > size:
            return
        data = b""
        if length <= _LONGEST_BYTES:
            data = file.read(length)
            if file.read(_CHECKSUM.size) != _CHECKSUM.pack(masked_crc32c(data)):
                return
        else:
            file.seek(end)
        yield data

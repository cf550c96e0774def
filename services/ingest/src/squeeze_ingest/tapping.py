"""Raw frames to disk as they came, so that today can be replayed tomorrow.

A slow or full disk costs frames of the recording, never of the feed.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from squeezecore.adapters.loopback_recording import Recorder

EVERY_S = 1.0
BYTES_MAX = 64 << 20  # kept for a slow disk; what comes beyond is left out


class Tap:
    """Records what feeds hear; one file after the other for each venue."""

    def __init__(self, directory: Path, log: Any) -> None:
        self.recorded = 0  # frames
        self.left_out = 0
        self.last_error = ""
        self._directory = directory
        self._log = log
        self._recorders: dict[str, Recorder] = {}
        self._frames: list[tuple[str, str, bytes, int]] = []
        self._bytes = 0

    def take(self, venue: str, section: str, frame: bytes, received_ns: int) -> None:
        """Take a frame."""
        if self._bytes > BYTES_MAX:
            self.left_out += 1
            return
        self._frames.append((venue, section, frame, received_ns))
        self._bytes += len(frame)

    async def run(self) -> None:
        """Write until cancelled, then write the rest."""
        try:
            while True:
                await asyncio.sleep(EVERY_S)
                frames, self._frames, self._bytes = self._frames, [], 0
                await asyncio.to_thread(self._write, frames)
        finally:
            self._write(self._frames)
            for recorder in self._recorders.values():
                recorder.close()

    def _write(self, frames: list[tuple[str, str, bytes, int]]) -> None:
        try:
            for venue, section, frame, received_ns in frames:
                if venue not in self._recorders:
                    self._recorders[venue] = Recorder(self._directory, venue)
                self._recorders[venue].write(section, received_ns, frame)
            for recorder in self._recorders.values():
                recorder.flush()
        except OSError as error:
            self._recorders.clear()  # a new file, once there is room
            self.left_out += len(frames)
            if str(error) != self.last_error:
                self.last_error = str(error)
                self._log.warning("recording", directory=str(self._directory), reason=str(error))
        else:
            self.recorded += len(frames)
            self.last_error = ""

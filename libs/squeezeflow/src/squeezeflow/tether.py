"""Tie a process to its starter's life, then become the program: `python -S tether.py STARTER_PID PROGRAM WORDS…`.

The kernel sends SIGTERM when the starter ends, whatever way it ends; where no kernel does (macOS), the program just runs.
It is started as a file and imports next to nothing, so it costs a few milliseconds.
"""

from __future__ import annotations

import os
import sys

DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
SIGTERM = 15


def main() -> None:
    """Do it; returns only by becoming the program or ending."""
    starter, words = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415

        ctypes.CDLL(None).prctl(DEATH_SIGNAL, SIGTERM)
        if os.getppid() != starter:  # it ended before we asked
            sys.exit(1)
    os.execv(words[0], words)  # noqa: S606 - words are our own, no shell


if __name__ == "__main__":
    main()

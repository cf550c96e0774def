"""Folders that are needed only while a command runs: gone with it, or with the next command where it was killed.

    <root>/squeezeflow-1234-0badcafe/       the folder, named after its owner's process
    <root>/squeezeflow-1234-0badcafe.lock   held as long as the owner lives

The lock is an `flock`, which the kernel drops with its process. It is there before the folder and goes after it, so a
folder without an owner is always found, and one with an owner is never taken away.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from squeezecore.adapters import supervisor

PREFIX = "squeezeflow-"


@contextlib.contextmanager
def scratch(root: Path | None) -> Iterator[Path]:
    """Give an empty folder under `root`, the system's temporary directory if None; take it away in the end.

    Folders there whose owners were killed are taken away first.
    """
    root = Path(tempfile.gettempdir()) if root is None else root
    root.mkdir(parents=True, exist_ok=True)
    sweep(root)
    lock, descriptor = _locked(root)
    folder = lock.with_suffix("")
    try:
        folder.mkdir(mode=0o700)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def _locked(root: Path) -> tuple[Path, int]:
    """Make a lock file of our own and hold it."""
    while True:
        lock = root / f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}.lock"
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return lock, descriptor
        os.close(descriptor)  # somebody swept between our two steps: once more


def sweep(root: Path) -> None:
    """Take away the folders of `root` whose owners are gone; those of other users are left alone."""
    for lock in root.glob(f"{PREFIX}*.lock"):
        with contextlib.suppress(OSError):
            here = lock.lstat()
            if not stat.S_ISREG(here.st_mode) or here.st_uid != os.getuid():
                continue
            descriptor = supervisor.try_lock(lock)
            if descriptor is None:
                continue
            try:
                shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                lock.unlink(missing_ok=True)
            finally:
                os.close(descriptor)

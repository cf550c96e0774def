"""Processes to scan with, forked from one that has everything imported and every kernel loaded.

Starting an interpreter and loading the kernels takes longer than scanning a week. So one server process does it once,
beside whatever the parent does meanwhile (`warm`), and workers are forked from it in milliseconds. It holds no
connection and no thread when it forks.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
from multiprocessing.context import ForkServerContext
from typing import Any

PRELOAD = "squeezecore.adapters.preload"


def context() -> ForkServerContext:
    """Return the context whose processes are forked from the warm one."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload([PRELOAD])
    return made


def warm() -> None:
    """Start the warm process, if it does not run yet, without waiting for it."""
    context()
    ensure: Any = multiprocessing.forkserver.ensure_running
    ensure()

"""The smallest service: what the tests of the skeleton and of `up` start as a real process.

`python tests/support/tiny_service.py` counts seconds, can be told to die, and has a path of each kind. A word names it otherwise.
"""

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from squeezecore.adapters.service import PAGE, Kit, PageSize, Part, ServiceSettings, main, writer
from squeezecore.errors import SqueezeError, UsageError


class Settings(ServiceSettings):
    """Everybody's settings and one of its own."""

    needs_store: bool = True
    end: Literal["never", "quietly", "loudly", "refusing"] = "never"
    end_when: Path | None = None  # the loop ends once this file is there
    note: Path | None = None  # what is closed is written here, in its order


class Order(BaseModel, extra="forbid"):
    qty: int = Field(ge=1, le=9)


class Tiny:
    def __init__(self, kit: Kit) -> None:
        self.kit = kit
        self.turns = 0

    async def run(self) -> None:
        settings = self.kit.settings
        while settings.end == "never" or not (settings.end_when is None or settings.end_when.exists()):
            self.turns += 1
            await asyncio.sleep(0.02)
        if settings.end == "loudly":
            raise ValueError("a thing nobody thought of")

    def status(self) -> dict[str, Any]:
        return {"state": "RUNNING", "messages": self.turns, "lag_s": 0.5, "last_message_ns": self.kit.clock.now_ns()}

    async def probe(self) -> None:
        if self.kit.settings.end_when is not None and self.kit.settings.end == "never":
            raise SqueezeError("feed was silent for 12 s, limit is 10 s")


async def build(kit: Kit, stack: AsyncExitStack) -> Part:
    tiny = Tiny(kit)
    if kit.settings.end == "refusing":
        raise UsageError("end was 'refusing', as asked")
    for name in ("first", "second"):
        stack.callback(closed, kit.settings.note, name)
    router = APIRouter(prefix="/v1")

    @router.get("/numbers")
    async def numbers(limit: PageSize = PAGE) -> list[int]:
        """Count."""
        return list(range(limit))

    @router.post("/order", dependencies=[writer()])
    async def order(order: Order) -> int:
        """Take an order."""
        return order.qty

    @router.post("/kill", dependencies=[writer("executor")])
    async def kill() -> str:
        """Do what only the executor may."""
        return "killed"

    @router.get("/fail/{how}")
    async def fail(how: str) -> None:
        """Fail."""
        raise {"ours": RuntimeError("the inside"), "yours": UsageError("qty was 3"), "store": SqueezeError("gone")}[how]

    @router.get("/thread")
    async def thread() -> int:
        """Ask the store, beside the loop."""
        assert kit.store is not None
        table = await kit.in_thread(kit.store.query, "SELECT 42 AS x")
        return int(table["x"][0].as_py())

    return Part(run=tiny.run, router=router, probes={"feed": tiny.probe}, status=tiny.status)


def closed(note: Path | None, name: str) -> None:
    if note is not None:
        with note.open("a") as file:
            file.write(name + "\n")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "tiny", Settings, build)

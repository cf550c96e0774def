"""The virtual loop itself: time jumps, order is kept, a stuck program is told."""

import asyncio

import pytest

from support.virtual import StuckError, VirtualClock, VirtualLoop, run


def test_a_day_of_waiting_takes_no_time_and_keeps_its_order():
    heard = []

    async def say(name: str, wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        heard.append((name, asyncio.get_running_loop().time()))

    async def main() -> None:
        await asyncio.gather(say("late", 86_400), say("early", 1), say("middle", 3600))

    run(main())
    assert heard == [("early", 1), ("middle", 3600), ("late", 86_400)]


def test_a_program_that_waits_for_nothing_is_told():
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(StuckError, match="no timer will bring"):
        run(main())


def test_the_clock_follows_the_loop():
    loop = VirtualLoop()
    clock = VirtualClock(loop, 1_000_000_000)

    async def main() -> int:
        await asyncio.sleep(2.5)
        return clock.now_ns()

    assert run(main(), loop) == 3_500_000_000

"""Real frames to prints to bars: what one core parses, in packs and one by one, of one symbol and of fifty."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import NamedTuple

import numpy as np
from tests.bench.measuring import Figure, plain, rate, timed
from tests.bench.stage import Stage
from tests.support.recorded import WINDOW, frames, window_instrument

from squeezecore import abreast, flow
from squeezecore.market import IdKind, Instrument, Trades, concat, empty
from squeezecore.venues import binance

PACK = 128  # frames: what some milliseconds of a busy feed bring
SYMBOLS = 50
RUNS = 5
ROUNDS = 5  # of the window, in one run
SECOND_NS = 1_000_000_000


class Tape(NamedTuple):
    """Frames of prints of one section, in order."""

    section: str
    instruments: dict[str, Instrument]  # by native symbol
    frames: list[bytes]


def recorded(section: str) -> Tape:
    """Take the prints of the recorded window, as they came: in the wrapper of a combined stream."""
    instrument = window_instrument(section)
    prints = [frame for _, frame in frames(section) if b'"e":"trade"' in frame]
    return Tape(section, {instrument.native_symbol: instrument}, prints)


def spread(tape: Tape) -> Tape:
    """Give the prints of a section to fifty symbols in turn; ids go on for each by itself."""
    names = [f"B{number:02}USDT" for number in range(SYMBOLS)]
    instruments = {name: binance.instrument(tape.section, name, Decimal(60_000)) for name in names}
    ids = {name: itertools.count(1) for name in names}
    made = []
    for frame, name in zip(tape.frames, itertools.cycle(names), strict=False):
        head, _, rest = frame.partition(b'"t":')
        _, comma, tail = rest.partition(b",")
        text = head + b'"t":' + str(next(ids[name])).encode() + comma + tail
        made.append(text.replace(b"BTCUSDT", name.encode()))
    return Tape(tape.section, instruments, made)


def packs(tape: Tape, size: int) -> list[Sequence[bytes]]:
    """Cut frames into packs."""
    return [tape.frames[at : at + size] for at in range(0, len(tape.frames), size)]


def parse_packs(tape: Tape, cut: Sequence[Sequence[bytes]]) -> int:
    """Parse packs into columns; return how many prints there were."""
    count = 0
    for pack in cut:
        found = binance.parse_many(tape.section, tape.instruments, pack, [0] * len(pack))
        count += sum(len(block.id) for block in found.trades.values())
    return count


def aggregate(tape: Tape, cut: Sequence[Sequence[bytes]]) -> int:
    """Parse packs, and whenever a second begins close those up to two before it; return how many bars there were."""
    slots = {instrument.id: slot for slot, instrument in enumerate(tape.instruments.values())}
    lanes = abreast.lanes([flow.bar_params(one, IdKind.TRADE) for one in tape.instruments.values()])
    state = abreast.abreast([flow.bars_initial() for _ in slots])
    bars, newest_s = 0, 0
    waiting: list[tuple[int, Trades]] = []
    for pack in cut:
        found = binance.parse_many(tape.section, tape.instruments, pack, [0] * len(pack))
        waiting += [(slots[name], block) for name, block in found.trades.items()]
        now_s = max(int(block.exchange_ns[-1]) for block in found.trades.values()) // SECOND_NS
        if now_s > newest_s:
            newest_s = now_s
            bars_now, state = _close(lanes, state, waiting, now_s - 2)
            bars += bars_now
            waiting = []
    return bars + _close(lanes, state, waiting, newest_s + 1)[0]


def _close(
    lanes: abreast.Lanes, state: abreast.Abreast, waiting: list[tuple[int, Trades]], watermark_s: int
) -> tuple[int, abreast.Abreast]:
    """Give the kernel what has come, each instrument's together."""
    waiting.sort(key=lambda pair: pair[0])
    at = np.repeat([slot for slot, _ in waiting], [len(block.id) for _, block in waiting])
    trades = concat([empty(Trades), *(block for _, block in waiting)])
    state, _, bars, _ = abreast.scan_abreast(lanes, state, at.astype(np.int64), trades, watermark_s)
    return len(bars.ts), state


def parse_each(tape: Tape) -> int:
    """Parse frame by frame into values."""
    return sum(len(binance.parse(tape.section, tape.instruments, frame, 0)) for frame in tape.frames)


def repeated(action: Callable[[], int]) -> Callable[[], None]:
    """Do something several times, so that one run takes long enough to be timed."""

    def act() -> None:
        for _ in range(ROUNDS):
            action()

    return act


def figures(stage: Stage) -> list[Figure]:
    """Measure parsing and aggregating on one core."""
    stage.tell("parsing recorded frames")
    tapes = [recorded(section) for section in WINDOW]
    cuts = [packs(tape, PACK) for tape in tapes]
    count = sum(len(tape.frames) for tape in tapes)
    assert sum(parse_packs(tape, cut) for tape, cut in zip(tapes, cuts, strict=True)) == count
    prints = f"{count} recorded prints of Binance spot, USD-M and COIN-M, as they came over the wire"

    def all_of(action: Callable[..., int], *lists: Sequence[object]) -> Callable[[], None]:
        return repeated(lambda: sum(itertools.starmap(action, zip(tapes, *lists, strict=True))))

    whole = timed(all_of(aggregate, cuts), RUNS)
    packed, single = timed(all_of(parse_packs, cuts), RUNS), timed(all_of(parse_each), RUNS)
    judged = rate(
        "frames parsed and aggregated", count * ROUNDS, whole, "trades/s/core", 200_000,
        f"{prints}, in packs of {PACK}: bytes to columns, and each second's to bars",
    )  # fmt: skip
    lines = [
        judged,
        plain("  parsing alone", count * ROUNDS / packed.seconds, "trades/s/core", f"the same packs; {packed.said}"),
        plain(
            "  frame by frame",
            count * ROUNDS / single.seconds,
            "trades/s/core",
            f"a value for each print, {single.seconds / packed.seconds:.1f} times as long; {single.said}",
        ),
    ]
    many = spread(tapes[list(WINDOW).index("linear")])
    for size in (PACK, 4 * PACK):
        cut = packs(many, size)
        timing = timed(repeated(lambda cut=cut: aggregate(many, cut)), RUNS)
        lines.append(
            plain(
                f"  of {SYMBOLS} symbols, packs of {size}",
                len(many.frames) * ROUNDS / timing.seconds,
                "trades/s/core",
                f"the USD-M prints under {SYMBOLS} names in turn, parsed and aggregated; {timing.said}",
            )
        )
    return lines

"""Which instruments there are, said once for all services: the bucket `instruments`, an entry for each.

An instrument's scales are fixed when it is first seen, so the entry is made once and the first writer wins. It is taken
from the store if bars of it are stored, else from the venue's own list. Services that only read wait for the entry.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import msgspec

from squeezecore.adapters.bus import Bus, BusError, Conflict
from squeezecore.adapters.service import Kit
from squeezecore.errors import SqueezeError, UsageError
from squeezecore.market import Instrument, Kind
from squeezecore.spec import canonical, nearest
from squeezecore.venues import VENUES, venue

BUCKET = "instruments"
LOOK_S = 0.25  # how often a missing entry is looked for

Lists = Callable[[str, str], Awaitable[bytes]]  # (venue, section) → the venue's own list


class UnlistedError(SqueezeError):
    """The venue's lists do not name an instrument."""


def key(name: str) -> str:
    """Return the key of an instrument's entry.

    >>> key("binance:BTC-USDT-PERP")
    'binance/BTC-USDT-PERP'
    """
    return name.replace(":", "/")


async def known(bus: Bus, name: str) -> Instrument | None:
    """Return an instrument's entry; None where there is none yet."""
    found = await bus.get(BUCKET, key(name))
    if found is None:
        return None
    try:
        return msgspec.json.decode(found[0], type=Instrument)
    except msgspec.DecodeError as error:
        raise UsageError(
            f"entry {key(name)} in {BUCKET} is no instrument of this version ({error}): mend it"
        ) from error


async def wait_for(bus: Bus, names: Iterable[str]) -> dict[str, Instrument]:
    """Return the entries of instruments by id, as soon as all of them are there."""
    found: dict[str, Instrument] = {}
    left = list(names)
    while left:
        for name in list(left):
            entry = await known(bus, name)
            if entry is not None:
                found[name] = entry
                left.remove(name)
        if left:
            await asyncio.sleep(LOOK_S)
    return found


async def declare(bus: Bus, instrument: Instrument) -> Instrument:
    """Make an instrument's entry and return it; where there is one already, that one."""
    try:
        await bus.put(BUCKET, key(instrument.id), canonical(instrument), revision=0)
    except Conflict:
        entry = await known(bus, instrument.id)
        if entry is None:  # deleted by hand in between
            raise BusError(f"entry {key(instrument.id)} in {BUCKET} was there and is gone: try again") from None
        return entry
    return instrument


async def instrument(kit: Kit, name: str, lists: Lists) -> Instrument:
    """Return an instrument's entry; make it, where there is none, from the store or else from its venue's list.

    Args:
        kit: of the service; its store may be None.
        name: the instrument's id, `venue:SYMBOL`.
        lists: asks a venue; whatever it raises is passed on.

    Raises:
        UsageError: no venue of that name.
        UnlistedError: its venue does not list it.
    """
    entry = await known(kit.bus, name)
    if entry is not None:
        return entry
    store = kit.store
    stored = {} if store is None else await kit.in_thread(store.instruments)
    made = stored.get(name)
    if made is None:
        made = await _listed(name, lists)
        if store is not None:  # before the entry is there: who finds one counts on the store
            await kit.in_thread(store.put_instrument, made)
    entry = await declare(kit.bus, made)
    if store is not None and entry != made:
        await kit.in_thread(store.put_instrument, entry)
    return entry


async def _listed(name: str, lists: Lists) -> Instrument:
    """Find an instrument in its venue's lists; sections that cannot hold it are not asked."""
    venue_name, colon, symbol = name.partition(":")
    if not colon or venue_name not in VENUES:
        raise UsageError(f"instrument was {name!r}, its venue does not exist: {nearest(venue_name, VENUES)}")
    rules = venue(venue_name)
    spot = symbol.count("-") == 1
    listed: list[str] = []
    for section in rules.SECTIONS:
        found, _ = (
            rules.instruments(section, await lists(venue_name, section)) if _may_hold(section, spot) else ([], [])
        )
        listed += [each.symbol for each in found]
        for each in found:
            if each.symbol == symbol and (each.kind is Kind.SPOT) == spot:
                return each
    raise UnlistedError(
        f"instrument was {name!r}, {venue_name} does not list it: {nearest(symbol, listed or ['none'])}"
    )


def _may_hold(section: str, spot: bool) -> bool:
    """Say whether a section may list a symbol: `BASE-QUOTE` alone is spot."""
    return (section == "spot") == spot

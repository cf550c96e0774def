"""What ingest says of itself where nothing answers."""

import asyncio

from squeeze_ingest.app import NAMED_MAX, Ingest, summed
from squeezecore.adapters.loopback import source_of
from squeezecore.venues import venue
from support.feeding import START_NS, World, in_world


def test_without_a_network_each_section_is_named_once_however_much_is_watched():
    source = source_of("sim:7", ("BTC", "ETH", "SOL"))
    names = [
        one.id
        for section in ("spot", "linear")
        for one in venue("binance").instruments(section, source.exchange_info(section, START_NS))[0]
    ]

    async def offline(world: World) -> None:
        world.exchange.online = False
        await world.watch(*names)
        ingest = Ingest(world.begin(), None, None)
        await asyncio.sleep(60)
        said = ingest.status()["last_error"]
        assert said.count("could not be asked") == 2, said
        assert said.count("binance:") <= 2 * NAMED_MAX, said

    in_world(source, offline)


def test_of_many_names_two_are_told():
    assert summed(["a", "b", "c", "d"]) == "a, b, c, d"
    assert summed(["a", "b", "c", "d", "e"]) == "a, b and 3 more"

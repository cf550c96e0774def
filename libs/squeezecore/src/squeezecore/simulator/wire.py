"""Simulated prints as the frames a venue would have sent."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

from squeezecore.market import Instrument, Kind, Margin, Trades

_MS = 1_000_000


def wire_frames(trades: Trades, instrument: Instrument) -> Iterator[bytes]:
    """Yield each print as Binance's combined `@trade` stream sends it; inverse markets count in contracts."""
    symbol = instrument.native_symbol
    head = f'{{"stream":"{symbol.lower()}@trade","data":{{"e":"trade"'
    spot, inverse = instrument.kind is Kind.SPOT, instrument.margin is Margin.INVERSE
    lot = instrument.lot_size
    price_digits = 8 if spot else max(0, -int(instrument.tick_size.as_tuple().exponent))
    qty_digits = 8 if spot else max(0, -int(lot.as_tuple().exponent))
    cents = int(instrument.contract_size * 100) if inverse else 1
    columns = zip(*(column.tolist() for column in trades), strict=True)
    for trade_id, exchange_ns, received_ns, price, qty, quote_cents, side, _ in columns:
        traded_ms, sent_ms = exchange_ns // _MS, max(exchange_ns, received_ns - 10 * _MS) // _MS
        p = f"{Decimal(price).scaleb(-instrument.price_decimals):.{price_digits}f}"
        q = str(quote_cents // cents) if inverse else f"{Decimal(qty).scaleb(-instrument.qty_decimals):.{qty_digits}f}"
        maker = "true" if side < 0 else "false"
        if spot:
            body = (
                f'"E":{sent_ms},"s":"{symbol}","t":{trade_id},"p":"{p}","q":"{q}","T":{traded_ms},"m":{maker},"M":true'
            )
        else:
            body = f'"E":{sent_ms},"T":{traded_ms},"s":"{symbol}","t":{trade_id},"p":"{p}","q":"{q}","X":"MARKET","m":{maker}'
        yield f"{head},{body}}}}}".encode()

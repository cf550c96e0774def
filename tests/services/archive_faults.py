"""Archive files as they are published, and as users have met them: a writer with a switch for each known fault."""

import gzip
import hashlib
import io
import json
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

FIXTURES = Path(__file__).parents[1] / "fixtures" / "binance"
FOLDERS = {"spot": "spot", "um": "futures/um", "cm": "futures/cm"}
HEADERS = {
    "aggTrades": "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker",
    "trades": "id,price,qty,quote_qty,time,is_buyer_maker",
    "fundingRate": "calc_time,funding_interval_hours,last_funding_rate",
    "metrics": "create_time,symbol,sum_open_interest,sum_open_interest_value,count_toptrader_long_short_ratio,"
    "sum_toptrader_long_short_ratio,count_long_short_ratio,sum_taker_long_short_vol_ratio",
}


class Print(NamedTuple):
    """One line of a trades file."""

    id: int
    ms: int
    price: str
    qty: str
    maker: bool  # the buyer was the maker: the taker sold


def prints(n: int, start_s: int, seconds: int, first_id: int = 1000, seed: int = 1) -> list[Print]:
    """Make n prints over some seconds, ids contiguous, times ascending; the first and the last second have some."""
    rng = np.random.default_rng(seed)
    ms = start_s * 1000 + np.sort(rng.integers(0, seconds * 1000, n))
    ms[0], ms[-1] = start_s * 1000, (start_s + seconds) * 1000 - 1
    price = 6_000_000 + np.cumsum(rng.integers(-50, 51, n))
    qty = rng.integers(1, 5_000, n)
    maker = rng.random(n) < 0.5
    return [
        Print(first_id + k, int(ms[k]), f"{price[k] / 100:.2f}", f"{Decimal(int(qty[k])).scaleb(-3)}", bool(maker[k]))
        for k in range(n)
    ]


def recorded(market: str) -> list[Print]:
    """Return the real window of 2024-08-08 as prints; quantities of COIN-M are contracts."""
    name = {"spot": "spot.btcusdt", "um": "linear.btcusdt", "cm": "inverse.btcusd_perp"}[market]
    with gzip.open(FIXTURES / f"binance.{name}.20240808.recvts_json.gz", "rt") as lines:
        frames = [json.loads(line.split(" ", 1)[1]) for line in lines]
    trades = [frame["data"] for frame in frames if frame.get("data", {}).get("e") == "trade"]
    return [Print(t["t"], t["T"], t["p"], t["q"], t["m"]) for t in trades]


def line(
    content: str, market: str, p: Print, *, micro: bool = False, flags: str = "true", exponents: bool = False
) -> str:
    """Write a print as the archive does."""
    time = p.ms * 1000 if micro else p.ms
    flag = {"true": str(p.maker).lower(), "True": str(p.maker), "TRUE": str(p.maker).upper()}[flags]
    qty = f"{Decimal(p.qty):E}" if exponents else p.qty
    if content == "aggTrades":
        fields = [p.id, p.price, qty, 2 * p.id, 2 * p.id + 1, time, flag]
    else:
        value = Decimal(p.qty) * 100 / Decimal(p.price) if market == "cm" else Decimal(p.qty) * Decimal(p.price)
        fields = [p.id, p.price, qty, f"{value:.8f}", time, flag]
    return ",".join(map(str, [*fields, *(["True"] if market == "spot" else [])]))


def file_text(
    content: str, market: str, rows: Iterable[Print], *, header: bool = False, bom: bool = False, crlf: bool = False,
    **how: bool | str,
) -> bytes:  # fmt: skip
    """Write prints as a CSV, with the faults asked for."""
    head = HEADERS[content] + (",is_best_match" if market == "spot" else "")
    lines = ([head] if header else []) + [line(content, market, p, **how) for p in rows]
    end = "\r\n" if crlf else "\n"
    return (b"\xef\xbb\xbf" if bom else b"") + (end.join(lines) + end).encode()


def publish(
    root: Path, market: str, content: str, period: str, text: bytes, *, native: str = "", packed: str = "zip",
    checksum: bool = False,
) -> Path:  # fmt: skip
    """Put a file where the archive has it; `packed` is zip, csv, gz or repacked."""
    native = native or ("BTCUSD_PERP" if market == "cm" else "BTCUSDT")
    span = "daily" if len(period) == 10 else "monthly"
    folder = root / "data" / FOLDERS[market] / span / content / native
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{native}-{content}-{period}"
    path = folder / (name + {"zip": ".zip", "repacked": ".zip", "csv": ".csv", "gz": ".csv.gz"}[packed])
    if packed == "csv":
        path.write_bytes(text)
    elif packed == "gz":
        path.write_bytes(gzip.compress(text, mtime=0))
    else:
        path.write_bytes(zipped({f"{name}.csv": text}) if packed == "zip" else repacked(name, text))
    if checksum:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        path.with_name(path.name + ".CHECKSUM").write_text(f"{digest}  {path.name}\n")
    return path


def zipped(members: dict[str, bytes], stored: bool = False) -> bytes:
    """Make a zip."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED) as packed:
        for name, data in members.items():
            packed.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), data)
    return out.getvalue()


def repacked(name: str, text: bytes) -> bytes:
    """Make a zip as a person's desktop would: a folder, another name inside, a resource fork beside it, not compressed."""
    return zipped(
        {"Archive/": b"", f"Archive/{name} copy.csv": text, f"__MACOSX/._{name}.csv": b"\0\5\x16\7"}, stored=True
    )


class Second(NamedTuple):
    """One second, added up slowly and exactly."""

    buy: Fraction
    sell: Fraction
    buy_usd: Fraction
    sell_usd: Fraction
    buys: int
    sells: int
    first_id: int
    last_id: int


def slow_seconds(rows: Sequence[Print]) -> dict[int, Second]:
    """Add prints up by second, as fractions; the reference of the importer."""
    by_second: dict[int, list[Print]] = defaultdict(list)
    for p in {p.id: p for p in rows}.values():
        by_second[p.ms // 1000].append(p)
    out = {}
    for second, some in by_second.items():
        buys, sells = [p for p in some if not p.maker], [p for p in some if p.maker]
        out[second] = Second(
            *(sum((Fraction(p.qty) for p in side), Fraction(0)) for side in (buys, sells)),
            *(sum((Fraction(p.qty) * Fraction(p.price) for p in side), Fraction(0)) for side in (buys, sells)),
            len(buys), len(sells), min(p.id for p in some), max(p.id for p in some),
        )  # fmt: skip
    return out

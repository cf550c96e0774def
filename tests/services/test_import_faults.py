"""Every fault that users have met in the archive's files: repaired exactly, or set aside, counted and reported."""

import datetime as dt
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from services import archive_faults as faults
from services.archive_faults import Print, prints, publish
from squeezecore.adapters.importing import FileReport, ImportRefusedError, ImportReport, import_paths
from squeezecore.adapters.store import Store
from squeezecore.market import Bars
from squeezecore.spec import day_start_s

DAY = dt.date(2024, 8, 8)
T0 = day_start_s(DAY)
PERP = "binance:BTC-USDT-PERP"
QTY, USD = 10**8, 100


def bars_of(store: Store, name: str = PERP) -> Bars:
    return store.read_bars(name, 0, 2**32 - 1)


def text(rows: list[Print], **how) -> bytes:
    return faults.file_text("aggTrades", "um", rows, **how)


def load(store: Store, *paths: Path, **how) -> ImportReport:
    return import_paths(store, paths, **how)


def one(report: ImportReport) -> FileReport:
    assert len(report.files) == 1
    return report.files[0]


def check_flow(store: Store, rows: list[Print], name: str = PERP) -> None:
    """Assert that the store's seconds are the slow reference's, no second more and none less."""
    expected, bars = faults.slow_seconds(rows), bars_of(store, name)
    traded = {int(ts): k for k, ts in enumerate(bars.ts) if bars.buy_trades[k] + bars.sell_trades[k]}
    assert sorted(traded) == sorted(expected)
    for ts, second in expected.items():
        k = traded[ts]
        assert int(bars.buy_volume[k]) == second.buy * QTY, ts
        assert int(bars.sell_volume[k]) == second.sell * QTY, ts
        assert abs(int(bars.buy_usd_cents[k]) - second.buy_usd * USD) <= Decimal("0.5"), ts
        assert abs(int(bars.sell_usd_cents[k]) - second.sell_usd * USD) <= Decimal("0.5"), ts
        assert (int(bars.buy_trades[k]), int(bars.sell_trades[k])) == (second.buys, second.sells), ts


def check_same(store: Store, tmp_path: Path, rows: list[Print], *paths: Path) -> ImportReport:
    """Assert that importing `paths` gives, byte for byte, what one clean file of the same prints gives."""
    report = load(store, *paths)
    got = bars_of(store)
    day = dt.datetime.fromtimestamp(rows[0].ms / 1000, dt.UTC).date()
    store.drop_day(PERP, day)
    clean = publish(tmp_path / "clean", "um", "aggTrades", str(day), text(rows), packed="csv")
    load(store, clean)
    want = bars_of(store)
    for name in Bars._fields:
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name), err_msg=name)
    return report


# --- forms ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how",
    [
        {"header": True}, {"bom": True}, {"bom": True, "header": True}, {"crlf": True}, {"crlf": True, "header": True},
        {"flags": "True"}, {"flags": "TRUE"}, {"exponents": True}, {"micro": True},
    ],
    ids="+".join,
)  # fmt: skip
def test_the_form_of_the_text_changes_nothing(store: Store, tmp_path: Path, how: dict) -> None:
    rows = prints(400, T0, 60)
    check_same(store, tmp_path, rows, publish(tmp_path, "um", "aggTrades", str(DAY), text(rows, **how)))


@pytest.mark.parametrize("packed", ["csv", "gz", "zip", "repacked"])
def test_the_packing_changes_nothing(store: Store, tmp_path: Path, packed: str) -> None:
    rows = prints(400, T0, 60)
    report = check_same(
        store, tmp_path, rows, publish(tmp_path, "um", "aggTrades", str(DAY), text(rows), packed=packed)
    )
    assert one(report).rows == 400


def test_a_repacked_file_that_was_imported_adds_nothing(store: Store, tmp_path: Path) -> None:
    rows = prints(400, T0, 60)
    load(store, publish(tmp_path / "a", "um", "aggTrades", str(DAY), text(rows)))
    before = bars_of(store)
    report = one(load(store, publish(tmp_path / "b", "um", "aggTrades", str(DAY), text(rows), packed="repacked")))
    assert report.seconds_written == 0
    assert report.repaired == {"prints_stored_before": 400}
    np.testing.assert_array_equal(bars_of(store).version, before.version)


def test_milliseconds_and_microseconds_may_stand_in_one_file(store: Store, tmp_path: Path) -> None:
    rows = prints(400, T0, 60)
    both = text(rows[:150]) + text(rows[150:], micro=True)
    report = check_same(store, tmp_path, rows, publish(tmp_path, "um", "aggTrades", str(DAY), both))
    assert one(report).time_units == {"ms": 150, "us": 250}


# --- order and time ---------------------------------------------------------------------------------------------------


def test_rows_out_of_order_are_sorted(store: Store, tmp_path: Path) -> None:
    rows = prints(3000, T0, 300)
    shuffled = [rows[k] for k in np.random.default_rng(3).permutation(len(rows))]
    report = check_same(store, tmp_path, rows, publish(tmp_path, "um", "aggTrades", str(DAY), text(shuffled)))
    assert one(report).repaired["rows_out_of_order"] > 1000


def test_a_file_larger_than_memory_allows_is_sorted_on_disk(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from squeezecore.adapters import archive, repair

    monkeypatch.setattr(archive, "CHUNK_BYTES", 1 << 14)
    monkeypatch.setattr(repair, "WINDOW_ROWS", 500)
    rows = prints(6000, T0, 600)
    shuffled = [rows[k] for k in np.random.default_rng(3).permutation(len(rows))]
    check_same(store, tmp_path, rows, publish(tmp_path, "um", "aggTrades", str(DAY), text(shuffled)))


def test_doubled_rows_count_once(store: Store, tmp_path: Path) -> None:
    rows = prints(400, T0, 60)
    doubled = [p for k, p in enumerate(rows) for _ in range(1 + (k % 10 == 0))]
    report = check_same(store, tmp_path, rows, publish(tmp_path, "um", "aggTrades", str(DAY), text(doubled)))
    assert one(report).repaired == {"doubled_rows": 40}


def test_one_id_with_different_prints_is_set_aside(store: Store, tmp_path: Path) -> None:
    rows = prints(400, T0, 60)
    liar = rows[200]._replace(qty="77")
    report = one(load(store, publish(tmp_path, "um", "aggTrades", str(DAY), text([*rows[:201], liar, *rows[201:]]))))
    assert report.set_aside == {"one_id_different_prints": 2}
    check_flow(store, rows[:200] + rows[201:])
    gap = store.gaps(PERP)[0]
    assert (gap.first_id, gap.last_id, gap.cause) == (rows[200].id, rows[200].id, "one id, different prints")


def test_two_id_ranges_interleaved_row_by_row_go_to_their_own_dates(store: Store, tmp_path: Path) -> None:
    early, late = prints(600, T0, 120), prints(600, T0 + 20 * 86_400, 120, first_id=90_000, seed=2)
    mixed = [p for pair in zip(early, late, strict=True) for p in pair]
    report = one(load(store, publish(tmp_path, "um", "aggTrades", "2024-08", text(mixed))))
    check_flow(store, early + late)
    assert report.repaired["rows_out_of_order"] == 600 - 1
    gap = store.gaps(PERP)[0]
    assert (gap.first_id, gap.last_id) == (early[-1].id + 1, late[0].id - 1)
    assert bars_of(store).ts.size == 240  # nothing is invented in between


@pytest.mark.parametrize("wrong_s", [T0 - 5000, T0 + 4000, T0 + 40 * 86_400])
@pytest.mark.parametrize("where", [(0, 200), (700, 1000), (1800, 2000)])
def test_a_block_that_carries_one_wrong_time_is_set_aside(
    store: Store, tmp_path: Path, wrong_s: int, where: tuple[int, int]
) -> None:
    rows = prints(2000, T0, 400)
    a, b = where
    wrong = [p._replace(ms=wrong_s * 1000) if a <= k < b else p for k, p in enumerate(rows)]
    report = one(load(store, publish(tmp_path, "um", "aggTrades", str(DAY), text(wrong))))
    assert report.set_aside == {"wrong_time": b - a}
    check_flow(store, rows[:a] + rows[b:])
    if a and b < 2000:
        gaps = [(g.first_id, g.last_id, g.cause) for g in store.gaps(PERP)]
        assert gaps == [(rows[a].id, rows[b - 1].id, "wrong time")]
        bars = bars_of(store)
        complete = dict(zip(bars.ts.tolist(), bars.complete.tolist(), strict=True))
        assert complete[rows[a - 1].ms // 1000] == complete[rows[b].ms // 1000] == 0


def test_a_block_with_one_time_inside_its_own_silence_is_set_aside(store: Store, tmp_path: Path) -> None:
    rows = prints(4000, T0, 800)
    a, b = 1500, 2500
    frozen = [p._replace(ms=rows[2000].ms) if a <= k < b else p for k, p in enumerate(rows)]
    report = one(load(store, publish(tmp_path, "um", "aggTrades", str(DAY), text(frozen))))
    assert report.set_aside == {"wrong_time": b - a}
    check_flow(store, rows[:a] + rows[b:])


def test_interleaved_ids_whose_second_range_has_one_time_keep_only_the_right_rows(store: Store, tmp_path: Path) -> None:
    rows = prints(3000, T0, 600)
    good, bad = rows[:1000], [p._replace(ms=rows[2600].ms) for p in rows[1000:2000]]
    mixed = [p for pair in zip(good, bad, strict=True) for p in pair] + rows[2000:]
    report = one(load(store, publish(tmp_path, "um", "aggTrades", str(DAY), text(mixed))))
    assert report.set_aside == {"wrong_time": 1000}
    check_flow(store, good + rows[2000:])


@pytest.mark.parametrize(("rate", "silence_s"), [(10, 2), (0.05, 60)], ids=["a busy market", "a quiet one"])
def test_a_large_order_that_sweeps_the_book_is_no_wrong_time(
    store: Store, tmp_path: Path, rate: float, silence_s: int
) -> None:
    rows = prints(int(rate * 4000), T0, 4000)
    at_s = T0 + 4000 + silence_s
    sweep = [p._replace(ms=at_s * 1000) for p in prints(300, at_s, 1, first_id=rows[-1].id + 1)]
    report = one(load(store, publish(tmp_path, "um", "aggTrades", str(DAY), text(rows + sweep))))
    assert report.set_aside == {}
    check_flow(store, rows + sweep)


# --- what is missing --------------------------------------------------------------------------------------------------


def test_a_day_that_ends_early_leaves_a_gap_and_no_invented_second(store: Store, tmp_path: Path) -> None:
    first = prints(300, T0, 1000)
    second = prints(300, T0 + 86_400, 1000, first_id=first[-1].id + 5000)
    report = load(
        store,
        publish(tmp_path, "um", "aggTrades", str(DAY), text(first)),
        publish(tmp_path, "um", "aggTrades", "2024-08-09", text(second)),
    )
    check_flow(store, first + second)
    assert any("before the end of 2024-08-08" in note for note in report.files[0].notes)
    gap = store.gaps(PERP)[0]
    assert (gap.start_s, gap.end_s, gap.missing) == (T0 + 999, T0 + 86_400, 4999)
    assert bars_of(store).ts.size == 2000


def test_a_missing_day_is_a_gap_until_its_file_comes(store: Store, tmp_path: Path) -> None:
    days = [prints(300, T0 + n * 86_400, 86_400, first_id=1000 + 300 * n, seed=n) for n in range(3)]
    files = [
        publish(tmp_path, "um", "aggTrades", str(DAY + dt.timedelta(n)), text(rows)) for n, rows in enumerate(days)
    ]
    load(store, files[0], files[2])
    gap = store.gaps(PERP)[0]
    assert (gap.state, gap.missing) == ("open", 300)
    load(store, files[1])
    assert [(g.state, g.missing) for g in store.gaps(PERP)] == [("filled", 300)]
    bars = bars_of(store)
    assert bars.ts.size == 3 * 86_400
    assert np.flatnonzero(bars.complete == 0).tolist() == [0, bars.ts.size - 1]
    check_flow(store, [p for rows in days for p in rows])


def test_a_hole_in_ids_marks_its_seconds_and_is_filled_by_the_file_that_has_them(store: Store, tmp_path: Path) -> None:
    rows = prints(1000, T0, 200)
    load(store, publish(tmp_path / "a", "um", "aggTrades", str(DAY), text(rows[:400] + rows[450:])))
    assert [(g.first_id, g.last_id, g.state) for g in store.gaps(PERP)] == [(rows[400].id, rows[449].id, "open")]
    assert (bars_of(store).complete == 0).sum() > 2
    load(store, publish(tmp_path / "b", "um", "aggTrades", str(DAY), text(rows)))
    assert [(g.first_id, g.last_id, g.state) for g in store.gaps(PERP)] == [(rows[400].id, rows[449].id, "filled")]
    assert (bars_of(store).complete == 0).sum() == 2
    check_flow(store, rows)


def test_raw_ids_that_skip_one_where_the_aggregates_do_not_are_no_hole(store: Store, tmp_path: Path) -> None:
    rows = prints(600, T0, 100)  # aggregate ids are contiguous; first and last raw ids are 2n and 2n+1 …
    skipping = text(rows).replace(b",2200,2201,", b",2200,2200,")  # … and here one raw id belongs to nobody
    load(store, publish(tmp_path, "um", "aggTrades", str(DAY), skipping))
    assert store.gaps(PERP) == []
    assert (bars_of(store).complete == 0).sum() == 2


def test_single_raw_ids_left_out_of_futures_trades_are_no_hole_but_two_are(store: Store, tmp_path: Path) -> None:
    rows = prints(600, T0, 100)
    left = rows[:100] + rows[101:300] + rows[302:]
    file = publish(tmp_path, "um", "trades", str(DAY), faults.file_text("trades", "um", left))
    report = one(load(store, file))
    assert report.repaired == {"ids_the_venue_leaves_out": 1}
    assert [(g.first_id, g.missing) for g in store.gaps(PERP)] == [(rows[300].id, 2)]
    check_flow(store, left)


def test_a_skipped_id_of_spot_trades_is_a_hole(store: Store, tmp_path: Path) -> None:
    rows = prints(600, T0, 100)
    file = publish(tmp_path, "spot", "trades", str(DAY), faults.file_text("trades", "spot", rows[:100] + rows[101:]))
    load(store, file)
    assert [(g.first_id, g.missing) for g in store.gaps("binance:BTC-USDT")] == [(rows[100].id, 1)]


# --- overlaps ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["daily first", "monthly first", "together"])
def test_daily_and_monthly_files_may_overlap(store: Store, tmp_path: Path, order: str) -> None:
    days = [prints(300, T0 + n * 86_400, 86_400, first_id=1000 + 300 * n, seed=n) for n in range(2)]
    whole = days[0] + days[1]
    daily = publish(tmp_path, "um", "aggTrades", str(DAY), text(days[0]))
    monthly = publish(tmp_path, "um", "aggTrades", "2024-08", text(whole))
    batches = {
        "daily first": [[daily], [monthly]],
        "monthly first": [[monthly], [daily]],
        "together": [[monthly, daily]],
    }
    for batch in batches[order]:
        load(store, *batch)
    check_flow(store, whole)
    assert store.gaps(PERP) == []
    assert (bars_of(store).complete == 0).sum() == 2


def test_a_second_split_over_two_imports_is_whole_again(store: Store, tmp_path: Path) -> None:
    rows = prints(3000, T0, 100)
    cut = next(k for k in range(1500, 3000) if rows[k].ms // 1000 == rows[k - 1].ms // 1000)
    halves = text(rows[:cut]), text(rows[cut:])
    for k in (1, 0):  # even the later half first
        load(store, publish(tmp_path / str(k), "um", "aggTrades", str(DAY), halves[k]))
    got = bars_of(store)
    assert np.flatnonzero(got.complete == 0).tolist() == [0, 99]
    assert store.gaps(PERP) == []
    expected = faults.slow_seconds(rows)[rows[cut].ms // 1000]
    k = rows[cut].ms // 1000 - T0
    assert int(got.buy_volume[k] + got.sell_volume[k]) == (expected.buy + expected.sell) * QTY
    assert (int(got.first_id[k]), int(got.last_id[k])) == (expected.first_id, expected.last_id)


def test_halves_that_overlap_inside_a_second_count_each_print_once(store: Store, tmp_path: Path) -> None:
    rows = prints(3000, T0, 100)
    cut = next(k for k in range(1500, 3000) if len({p.ms // 1000 for p in rows[k - 5 : k + 5]}) == 1)
    load(store, publish(tmp_path / "a", "um", "aggTrades", str(DAY), text(rows[: cut + 3])))
    load(store, publish(tmp_path / "b", "um", "aggTrades", str(DAY), text(rows[cut - 3 :])))
    check_flow(store, rows)
    assert (bars_of(store).complete == 0).sum() == 2


def test_a_file_that_contradicts_what_is_stored_changes_nothing_and_is_counted(store: Store, tmp_path: Path) -> None:
    rows = prints(1000, T0, 100)
    load(store, publish(tmp_path / "a", "um", "aggTrades", str(DAY), text(rows)))
    other = [p._replace(qty="9.999") if k == 500 else p for k, p in enumerate(rows)]
    report = one(load(store, publish(tmp_path / "b", "um", "aggTrades", str(DAY), text(other))))
    assert report.set_aside["prints_in_seconds_stored_otherwise"] > 0
    check_flow(store, rows)
    load(store, publish(tmp_path / "b", "um", "aggTrades", str(DAY), text(other)), replace=True)
    check_flow(store, other)


@pytest.mark.parametrize("first", ["aggTrades", "trades"])
def test_one_kind_of_prints_a_day_unless_replaced(store: Store, tmp_path: Path, first: str) -> None:
    aggregates, raw = prints(300, T0, 100), prints(500, T0, 100, first_id=7_000_000, seed=5)
    files = {
        "aggTrades": publish(tmp_path, "um", "aggTrades", str(DAY), text(aggregates)),
        "trades": publish(tmp_path, "um", "trades", str(DAY), faults.file_text("trades", "um", raw)),
    }
    rows = {"aggTrades": aggregates, "trades": raw}
    second = "trades" if first == "aggTrades" else "aggTrades"
    load(store, files[first])
    with pytest.raises(ImportRefusedError, match=f"holds {first}, this file {second}"):
        load(store, files[second])
    check_flow(store, rows[first])
    load(store, files[second], replace=True)
    check_flow(store, rows[second])
    assert {record.kind for record in store.imports(PERP)} == {"trade" if second == "trades" else "aggregate"}


# --- refusals ---------------------------------------------------------------------------------------------------------

BROKEN = {
    "a letter in a price": (1, b"2400x", "2400x"),
    "a negative quantity": (2, b"-1", "negative"),
    "a quantity too fine": (2, b"0.1234567891", "more decimals"),
    "a quantity that is none": (2, b"nan", "no number"),
    "an empty quantity": (2, b"", "no number"),
    "a time of no century": (5, b"12", "no time between"),
    "a flag that is none": (6, b"yes", "neither true nor false"),
    "a column too many": (6, b"true,0", "columns"),
    "a line cut short": (-1, b"", "columns"),
}


@pytest.mark.parametrize("fault", sorted(BROKEN))
def test_a_broken_line_is_refused_with_file_line_and_reason(store: Store, tmp_path: Path, fault: str) -> None:
    rows = prints(400, T0, 60)
    column, value, reason = BROKEN[fault]
    lines = text(rows).splitlines()
    if column < 0:
        data, line = text(rows)[:-30], 400
    else:
        fields, line = lines[200].split(b","), 201
        fields[column] = value
        data = b"\n".join([*lines[:200], b",".join(fields), *lines[201:]]) + b"\n"
    path = publish(tmp_path, "um", "aggTrades", str(DAY), data)
    with pytest.raises(ImportRefusedError, match=reason) as caught:
        load(store, path)
    refusal = caught.value.report.refused[0]
    assert refusal.line == line
    assert path.name in refusal.file
    assert caught.value.exit_code == 2
    assert store.coverage() == []
    assert store.instruments() == {}
    assert store.imports() == []


def test_a_corrupt_zip_is_refused_and_the_other_files_are_imported(store: Store, tmp_path: Path) -> None:
    rows, more = prints(400, T0, 60), prints(400, T0 + 86_400, 60, first_id=5000)
    bad = publish(tmp_path, "um", "aggTrades", str(DAY), text(rows))
    good = publish(tmp_path, "um", "aggTrades", "2024-08-09", text(more))
    data = bytearray(bad.read_bytes())
    data[len(data) // 2] ^= 0xFF
    bad.write_bytes(data)
    with pytest.raises(ImportRefusedError, match=r"unpacked|columns|number") as caught:
        load(store, bad, good)
    assert [file.file for file in caught.value.report.files] == [str(good)]
    check_flow(store, more)


def test_a_zip_cut_short_is_refused(store: Store, tmp_path: Path) -> None:
    path = publish(tmp_path, "um", "aggTrades", str(DAY), text(prints(400, T0, 60)))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ImportRefusedError, match="unpacked"):
        load(store, path)
    assert store.coverage() == []


def test_a_checksum_beside_the_file_is_verified(store: Store, tmp_path: Path) -> None:
    rows = prints(400, T0, 60)
    path = publish(tmp_path, "um", "aggTrades", str(DAY), text(rows), checksum=True)
    assert one(load(store, path)).checksum_verified
    path.with_name(path.name + ".CHECKSUM").write_text("0" * 64 + f"  {path.name}\n")
    with pytest.raises(ImportRefusedError, match="sha256"):
        load(store, path)


def test_importing_twice_is_importing_once(store: Store, tmp_path: Path) -> None:
    path = publish(tmp_path, "um", "aggTrades", str(DAY), text(prints(400, T0, 60)))
    load(store, path)
    before = bars_of(store)
    again = one(load(store, tmp_path))
    assert again.already_imported
    for name in Bars._fields:
        np.testing.assert_array_equal(getattr(before, name), getattr(bars_of(store), name))

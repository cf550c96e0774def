"""Parity: what live did on a stored day, proved again from what it saw; the answer is a certificate.

Two questions, each answered as far as the tables reach. Do the rows that live saw lead to the decisions, orders, fills and
equity that it stored? Do the recorded prints lead to the bars, and bars and facts to the rows, that are stored? Equal means
equal byte for byte. What could not be looked at is named, with the reason.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping

import msgspec

from squeezecore.adapters import comparing, flowstore, operations, parity_flow, parity_trading, tradestore
from squeezecore.adapters.accounts import Plan, plan_key
from squeezecore.adapters.comparing import Proof
from squeezecore.adapters.operations import Progress, Report, silent
from squeezecore.adapters.parity_trading import KINDS, Span
from squeezecore.adapters.scanning import code_version
from squeezecore.adapters.store import Store
from squeezecore.errors import DataHoleError, UsageError
from squeezecore.market import DAY_S, Instrument
from squeezecore.spec import canonical, day_start_s, digest
from squeezecore.wire import AssetChange

EQUAL, DIFFERENT, UNPROVED = "equal", "different", "unproved"


ACCOUNT = re.compile(r"[A-Za-z0-9_-]{1,32}")


class ParityRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A day of an account, to be proved."""

    day: dt.date
    account: str = "paper"


class Certificate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a day of an account came to."""

    day: dt.date
    account: str
    verdict: str  # equal | different | unproved: nothing could be compared
    code_version: str  # of this proof
    live_code_versions: tuple[str, ...]  # of the snapshots it began from
    params_hashes: tuple[str, ...]  # in force that day, as the records say
    plan_hash: str  # of capital, costs and limits
    from_ts: int  # s; of the trading side
    until_ts: int  # exclusive; both 0 where the trading side could not be looked at
    seconds: int  # of rows
    repaired: int  # rows that were repaired after live had seen them
    proofs: tuple[Proof, ...]

    @property
    def proved(self) -> int:
        """How many kinds of facts were compared and are equal."""
        return sum(proof.equal is True for proof in self.proofs)

    @property
    def different(self) -> int:
        """How many kinds of facts differ."""
        return sum(proof.equal is False for proof in self.proofs)

    @property
    def unproved(self) -> int:
        """How many kinds of facts could not be looked at."""
        return sum(proof.equal is None for proof in self.proofs)


def parity(store: Store, request: ParityRequest, report: Report = silent) -> Certificate:
    """Prove a stored day.

    Raises:
        DataHoleError: nothing of the day is stored.
        UsageError: the account's name is none.
    """
    if ACCOUNT.fullmatch(request.account) is None:
        raise UsageError(f"account was {request.account!r}, a name has 1 to 32 of A-Z a-z 0-9 - _: check the spelling")
    start_s = day_start_s(request.day)
    known = store.instruments()
    changes = flowstore.asset_changes(store)
    configs = parity_flow.configs_of(changes, operations.assets(store), start_s, start_s + DAY_S)
    if not any(line.name in configs for line in store.asset_coverage(None, start_s, start_s + DAY_S)):
        raise DataHoleError(f"day was {request.day}, the store holds no row of it: squeezeflow data lists the days")
    flows = parity_flow.Flows(start_s, start_s + DAY_S, known, configs)
    plan, note = _plan(store, request.account)
    span, proofs, seconds, repaired = _prove_trading(store, request, plan, note, known, changes, flows, report)
    if span is not None:
        flows = flows._replace(until_s=span.until_s)
    report(Progress("bars and rows", 0, 2, "proofs"))
    proofs.append(parity_flow.prove_bars(store, flows))
    report(Progress("bars and rows", 1, 2, "proofs"))
    proofs.append(parity_flow.prove_rows(store, flows))
    report(Progress("bars and rows", 2, 2, "proofs"))
    hashes = store.query(
        "SELECT DISTINCT params_hash AS hash FROM signals WHERE run_id = {run:String} AND ts >= {start:Int64} AND ts < {end:Int64} "
        "ORDER BY hash",
        {"run": f"live:{request.account}", "start": start_s, "end": start_s + DAY_S},
    )
    return Certificate(
        day=request.day,
        account=request.account,
        verdict=_verdict(proofs),
        code_version=code_version(),
        live_code_versions=() if span is None else tuple(sorted({span.desk.code_version, span.account.code_version})),
        params_hashes=tuple(hashes["hash"].to_pylist()),
        plan_hash=digest(canonical(plan)),
        from_ts=0 if span is None else span.start_s,
        until_ts=0 if span is None else span.until_s,
        seconds=seconds,
        repaired=repaired,
        proofs=tuple(proofs),
    )


def _verdict(proofs: list[Proof]) -> str:
    found = {proof.equal for proof in proofs}
    return DIFFERENT if False in found else EQUAL if True in found else UNPROVED


def _plan(store: Store, account: str) -> tuple[Plan, str]:
    """Return what an account trades with, and what is to be said of it."""
    found = store.config(plan_key(account))
    if found is None:
        return Plan(), "the account's plan is not in the store, the default costs and limits were taken"
    return msgspec.json.decode(found[0], type=Plan), ""


def _prove_trading(
    store: Store,
    request: ParityRequest,
    plan: Plan,
    note: str,
    known: Mapping[str, Instrument],
    changes: list[AssetChange],
    flows: parity_flow.Flows,
    report: Report,
) -> tuple[Span | None, list[Proof], int, int]:
    """Prove the trading side, or say why that cannot be done."""
    try:
        span = parity_trading.span_of(store, request.account, flows.start_s)
        span, notes = _bounded(span, changes)
    except (DataHoleError, UsageError) as error:
        return None, [comparing.unproved(kind, str(error)) for kind in KINDS], 0, 0
    traded = {asset: pieces[0][2].traded for asset, pieces in flows.configs.items()}
    assets = {asset: known[name] for asset, name in traded.items() if name in known}
    length = span.until_s - span.start_s
    again, seen = parity_trading.live_again(
        store, request.account, plan, assets, span, lambda done: report(Progress("trading", done, length, "seconds"))
    )
    stored = parity_trading.kept(store, request.account, span.start_s, span.until_s)
    proofs = parity_trading.compare(stored, again, span.start_s, span.until_s)
    states = {(each.state, each.kill_switch) for each in tradestore.standings(store, request.account, span.until_s)}
    if len(states) > 1:  # a strategy that is ahead decides some seconds before it hears of a switch
        notes.append("the account was not always active: a few decisions after a change may differ for that alone")
    said = "; ".join(filter(None, (note, *notes)))
    return span, [msgspec.structs.replace(proof, note=said) for proof in proofs], seen.seconds, seen.repaired


def _bounded(span: Span, changes: list[AssetChange]) -> tuple[Span, list[str]]:
    """End a span where somebody changed which assets are traded: no table tells the second from which the account knew."""
    notes = []
    traded: dict[str, str] = {}
    for change in sorted(changes, key=lambda change: change.from_ts):
        now = "" if change.config is None else change.config.traded
        if span.start_s < change.from_ts < span.until_s and now != traded.get(change.asset, ""):
            notes.append(f"assets were changed at second {change.from_ts}, proved up to a minute before")
            span = span._replace(until_s=change.from_ts - 60)
            break
        traded[change.asset] = now
    if span.until_s <= span.start_s:
        raise DataHoleError("; ".join(notes))
    return span, notes

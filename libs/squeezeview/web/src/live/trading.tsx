// An account: what it holds, what it ordered, how much of each limit is used, and the switches that stop it.

import type { JSX } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { Chart } from "../components/chart";
import { clock, compact, day, moment, number, percent, usd } from "../components/format";
import { pointFrame, type Source } from "../components/frames";
import { ChartGroup } from "../components/group";
import { Linked } from "../components/linked";
import { Meter } from "../components/plots";
import { DataTable, type Column } from "../components/table";
import { ask, query, Refusal, send, setToken, words } from "./api";
import { equitySpecs } from "./charts";
import { hooks } from "./hooks";
import { Absent, type Answer, Dialog, dialog, known, lately, now, present, TokenFields, useAsked, useNow, Waiting } from "./shared";
import { useWatched, type Watched } from "./store";
import { sideOf, type Fill, type Instrument, type Order, type Update } from "./types";

const DAY_S = 86_400;
const EVERY_S = 2;

export interface Position {
  asset: string;
  instrument: string;
  qty: number;
  entry_price: number;
  mark: number;
  unrealised_usd: number;
  opened_ts: number;
}

interface Positions {
  account: string;
  capital_usd: number;
  equity_usd: number;
  cash_usd: number;
  positions: Position[];
}

interface Limits {
  state?: string;
  kill_switch?: boolean;
  reason?: string;
  at_ns?: number;
  limits: Record<string, { used: number | null; limit: number | null }>;
}

export function Trading(props: { account: Watched<string>; accounts: string[]; onOpen: (asset: string) => void; small: boolean }): JSX.Element {
  const account = useWatched(props.account);
  const path = `/v1/accounts/${encodeURIComponent(account)}`;
  const ts = useNow();
  // A day before a whole minute, so that the question stays the same for a minute.
  const since = ts === null ? null : Math.max(0, Math.floor(ts / 60) * 60 - DAY_S);
  const ofDay = (what: string): string | null => (since === null ? null : `${path}/${what}${query({ from: since, limit: 1_000 })}`);
  const positions = useAsked<Positions>(`${path}/positions`, EVERY_S);
  const limits = useAsked<Limits>(`${path}/limits`, EVERY_S);
  const orders = useKept(account, useAsked<{ orders: Order[] }>(ofDay("orders"), EVERY_S));
  const fills = useKept(account, useAsked<{ fills: Fill[] }>(ofDay("fills"), EVERY_S));
  const [scales, setScales] = useState<Partial<Record<string, Instrument>>>({});
  useEffect(() => void known().then(setScales, () => undefined), []);
  const held = positions.value;
  const stale = Object.entries({ positions, limits, orders, fills }).flatMap(([name, asked]) =>
    asked.value !== null && asked.error !== null ? [`${name} (${words(asked.error)})`] : [],
  );
  return (
    <section class="trading" aria-labelledby="trading-title">
      <div class="bar">
        <h2 id="trading-title">
          Trading <small>account {account}</small>
        </h2>
        {props.accounts.length > 1 && (
          <label>
            Account{" "}
            <select value={account} onChange={(event) => props.account.set(event.currentTarget.value)}>
              {props.accounts.map((name) => (
                <option key={name}>{name}</option>
              ))}
            </select>
          </label>
        )}
        {held && (
          <span class="headvalues">
            <span>
              equity <strong>{usd(held.equity_usd)}</strong>
            </span>
            <span>
              cash <b>{usd(held.cash_usd)}</b>
            </span>
            <span>
              since the start{" "}
              <b class={held.equity_usd >= held.capital_usd ? "good" : "bad"}>
                {percent(held.capital_usd ? held.equity_usd / held.capital_usd - 1 : null, 2, true)}
              </b>
            </span>
          </span>
        )}
      </div>
      {stale.length > 0 && (
        <p class="warning" role="alert">
          Not of now, shown as it was: {stale.join(", ")}. It is asked again.
        </p>
      )}
      <Switches account={account} limits={limits.value} error={limits.error} again={limits.again} positions={held?.positions ?? null} refresh={() => {
        limits.again();
        positions.again();
      }} />
      <h3>Positions</h3>
      {!held ? (
        positions.error === null ? (
          <Waiting what="positions" />
        ) : (
          <Absent what="What is held" error={positions.error} again={positions.again} />
        )
      ) : held.positions.length === 0 ? (
        <p class="empty">Nothing is held.</p>
      ) : (
        <DataTable
          label="Positions"
          columns={POSITIONS}
          rows={held.positions}
          keyOf={(row) => row.instrument}
          onOpen={(row) => props.onOpen(row.asset)}
        />
      )}
      <div class="columns wide">
        <div>
          <h3>
            Limits <small>how much of each is used</small>
          </h3>
          {limits.value ? (
            <LimitTable limits={limits.value.limits} />
          ) : limits.error === null ? (
            <Waiting what="limits" />
          ) : (
            <Absent what="The limits' use" error={limits.error} again={limits.again} />
          )}
        </div>
        <div>
          <h3>
            Open orders <small>and the last day's</small>
          </h3>
          {orders.value ? (
            <Orders orders={orders.value.orders} scales={scales} />
          ) : orders.error === null ? (
            <Waiting what="orders" />
          ) : (
            <Absent what="Orders" error={orders.error} again={orders.again} />
          )}
        </div>
      </div>
      <h3>
        Fills <small>of the last day, UTC</small>
      </h3>
      {fills.value ? (
        <Fills fills={fills.value.fills} scales={scales} onOpen={props.onOpen} />
      ) : fills.error === null ? (
        <Waiting what="fills" />
      ) : (
        <Absent what="Fills" error={fills.error} again={fills.again} />
      )}
      <h3>Equity and drawdown</h3>
      {ts === null ? <Waiting what="equity" /> : <Equity key={account} account={account} />}
    </section>
  );
}

/** The last value of the same thing, while the next question is under way: a path that changes each minute shall not blink. */
function useKept<T>(of: string, asked: Answer<T>): Answer<T> {
  const kept = useRef<{ of: string; value: T | null }>({ of, value: null });
  if (kept.current.of !== of) kept.current = { of, value: null };
  if (asked.value !== null) kept.current.value = asked.value;
  return asked.value === null ? { ...asked, value: kept.current.value } : asked;
}

const POSITIONS: Column<Position>[] = [
  { head: "Asset", value: (row) => row.asset, left: true },
  {
    head: "Side",
    value: (row) => Math.sign(row.qty),
    left: true,
    show: (row) => <span class={row.qty > 0 ? "long" : "short"}>{row.qty > 0 ? "long" : "short"}</span>,
  },
  { head: "Quantity", value: (row) => row.qty, show: (row) => `${number(row.qty, 4, true)} ${row.asset}` },
  { head: "Value", unit: "USD", value: (row) => row.qty * row.mark, show: (row) => number(row.qty * row.mark, 0, true) },
  { head: "Entry", value: (row) => row.entry_price, show: (row) => number(row.entry_price, 2) },
  { head: "Mark", value: (row) => row.mark, show: (row) => number(row.mark, 2) },
  {
    head: "Unrealised",
    unit: "USD",
    value: (row) => row.unrealised_usd,
    show: (row) => number(row.unrealised_usd, 2, true),
    tone: (row) => row.unrealised_usd,
  },
  { head: "Since", unit: "UTC", value: (row) => row.opened_ts, show: (row) => lately(row.opened_ts) },
  { head: "Instrument", value: (row) => row.instrument, left: true },
];

const LIMIT_WORDS: Record<string, [label: string, kind: "share" | "usd" | "count" | "factor"]> = {
  order_notional_usd_max: ["One order", "usd"],
  position_notional_usd_max: ["Largest position", "usd"],
  open_positions_max: ["Open positions", "count"],
  leverage_max: ["Leverage", "factor"],
  correlated_exposure_max: ["Correlated exposure", "factor"],
  daily_loss_max: ["Loss of the day", "share"],
  weekly_loss_max: ["Loss of the week", "share"],
  drawdown_taper_start: ["Drawdown from which sizes shrink", "share"],
  drawdown_max: ["Drawdown", "share"],
  liquidation_distance_min: ["Distance to liquidation, at least", "share"],
  orders_per_minute_max: ["Orders in a minute", "count"],
  correlation_min: ["Correlation of a cluster", "count"],
  price_collar: ["Distance of a limit price", "share"],
  stale_data_s_max: ["Age of the data, s", "count"],
};

function limitText(value: number | null, kind: string): string {
  if (kind === "share") return percent(value, 2);
  if (kind === "usd") return `${compact(value)}\u202fUSD`;
  if (kind === "factor") return value === null ? "–" : `${number(value, 2)} ×`;
  return number(value, value !== null && !Number.isInteger(value) ? 2 : 0);
}

function LimitTable({ limits }: { limits: Limits["limits"] }): JSX.Element {
  const lines = Object.entries(limits).filter(([, one]) => one.used !== null);
  const others = Object.entries(limits).filter(([, one]) => one.used === null);
  if (lines.length + others.length === 0) return <p class="empty">No limit is told.</p>;
  return (
    <table class="figures limits">
      <caption class="hidden">Each limit and how much of it is used</caption>
      <thead>
        <tr>
          <th scope="col" class="left">
            Limit
          </th>
          <th scope="col">Used</th>
          <th scope="col">of</th>
          <th scope="col" class="left">
            Share
          </th>
        </tr>
      </thead>
      <tfoot>
        {others.length > 0 && (
          <tr>
            <td colSpan={4} class="left">
              <small>
                Measured only when an order is asked for: {others
                  .map(([name, one]) => {
                    const [label, kind] = LIMIT_WORDS[name] ?? [name.replaceAll("_", " "), "count"];
                    return `${label.toLowerCase()} ${limitText(one.limit, kind)}`;
                  })
                  .join(", ")}.
              </small>
            </td>
          </tr>
        )}
      </tfoot>
      <tbody>
        {lines.map(([name, { used, limit }]) => {
          const [label, kind] = LIMIT_WORDS[name] ?? [name.replaceAll("_", " "), "count"];
          const share = used === null || !limit ? null : name.endsWith("_min") ? (used > 0 ? limit / used : null) : used / limit;
          return (
            <tr key={name} class={share !== null && share >= 0.8 ? "near" : ""}>
              <th scope="row">{label}</th>
              <td>{limitText(used, kind)}</td>
              <td>{limitText(limit, kind)}</td>
              <td class="meterbox left">
                <Meter value={(share ?? 0) >= 0.8 ? -(share ?? 0) : (share ?? 0)} most={1} />
                <small>{percent(share, 0)}</small>
              </td>
            </tr>
          );
        })}
      </tbody>
    </table>
  );
}

const OPEN = new Set(["asked", "accepted", "partial", "unknown"]);

function Orders({ orders, scales }: { orders: Order[]; scales: Partial<Record<string, Instrument>> }): JSX.Element {
  const columns = useMemo<Column<Order>[]>(() => {
    const scale = (row: Order, what: "price_decimals" | "qty_decimals"): number => 10 ** (scales[row.instrument]?.[what] ?? 0);
    return [
      { head: "Decided", unit: "UTC", value: (row) => row.decided_ts, show: (row) => lately(row.decided_ts) },
      { head: "Asset", value: (row) => row.asset, left: true },
      {
        head: "Side",
        value: (row) => sideOf(row.side),
        left: true,
        show: (row) => <span class={sideOf(row.side) > 0 ? "long" : "short"}>{sideOf(row.side) > 0 ? "buy" : "sell"}</span>,
      },
      { head: "Quantity", value: (row) => row.qty, show: (row) => number(row.qty / scale(row, "qty_decimals"), 4) },
      {
        head: "Kind",
        value: (row) => row.kind,
        left: true,
        show: (row) => `${row.kind}${row.price ? ` ${number(row.price / scale(row, "price_decimals"), 2)}` : ""}${row.reduce_only ? ", reduce only" : ""}`,
      },
      { head: "Reason", value: (row) => row.reason, left: true, show: (row) => row.reason.replaceAll("_", " ") },
      {
        head: "State",
        value: (row) => stateOf(row),
        left: true,
        show: (row) => (
          <span class={OPEN.has(stateOf(row)) ? "open" : stateOf(row) === "filled" ? "" : "bad"}>
            {stateOf(row)}
            <small>{lastOf(row)?.reason.replaceAll("_", " ")}</small>
          </span>
        ),
      },
    ];
  }, [scales]);
  const sorted = useMemo(
    () => [...orders].sort((a, b) => Number(OPEN.has(stateOf(b))) - Number(OPEN.has(stateOf(a))) || b.decided_ts - a.decided_ts),
    [orders],
  );
  const open = sorted.filter((one) => OPEN.has(stateOf(one))).length;
  if (orders.length === 0) return <p class="empty">No order was given within a day.</p>;
  return (
    <>
      <p>{open === 0 ? "No order is open." : `${open} open, on top.`}</p>
      <DataTable label="Orders" columns={columns} rows={sorted} keyOf={(row) => row.id} most={12} />
    </>
  );
}

const lastOf = (order: Order): Update | undefined => order.updates?.at(-1);
const stateOf = (order: Order): string => lastOf(order)?.state ?? "asked";

function Fills(props: { fills: Fill[]; scales: Partial<Record<string, Instrument>>; onOpen: (asset: string) => void }): JSX.Element {
  const { scales } = props;
  const columns = useMemo<Column<Fill>[]>(() => {
    const scale = (row: Fill, what: "price_decimals" | "qty_decimals"): number => 10 ** (scales[row.instrument]?.[what] ?? 0);
    return [
      { head: "Second", unit: "UTC", value: (row) => row.ts, show: (row) => lately(row.ts) },
      { head: "Asset", value: (row) => row.asset, left: true },
      {
        head: "Side",
        value: (row) => sideOf(row.side),
        left: true,
        show: (row) => <span class={sideOf(row.side) > 0 ? "long" : "short"}>{sideOf(row.side) > 0 ? "bought" : "sold"}</span>,
      },
      { head: "Quantity", value: (row) => row.qty, show: (row) => number(row.qty / scale(row, "qty_decimals"), 4) },
      { head: "Price", value: (row) => row.price, show: (row) => number(row.price / scale(row, "price_decimals"), 2) },
      { head: "Fee", unit: "USD", value: (row) => row.fee_usd_e8, show: (row) => number(row.fee_usd_e8 / 1e8, 2) },
      { head: "Slippage", unit: "USD", value: (row) => row.slippage_usd_e8, show: (row) => number(row.slippage_usd_e8 / 1e8, 2) },
      { head: "Liquidity", value: (row) => row.liquidity, left: true },
      { head: "Reason", value: (row) => row.reason, left: true, show: (row) => row.reason.replaceAll("_", " ") },
    ];
  }, [scales]);
  if (props.fills.length === 0) return <p class="empty">Nothing was filled within a day.</p>;
  return (
    <DataTable
      label="Fills"
      columns={columns}
      rows={props.fills}
      keyOf={(row) => row.id}
      sort={{ column: 0, down: true }}
      most={20}
      onOpen={(row) => props.onOpen(row.asset)}
    />
  );
}

/** Points of equity with their drawdown; what comes is added. */
class EquitySource implements Source {
  private whole = pointFrame({ count: 0, units: {}, values: {} });

  set(points: { ts: number; equity_usd: number }[]): void {
    const ts = Float64Array.from(points, (point) => point.ts);
    const equity = Float64Array.from(points, (point) => point.equity_usd);
    let highest = -Infinity;
    const drawdown = equity.map((value) => {
      highest = Math.max(highest, value);
      return highest > 0 ? value / highest - 1 : 0;
    });
    this.whole = pointFrame({ count: ts.length, units: {}, values: { ts, equity, drawdown } });
  }

  frame(): typeof this.whole {
    return this.whole;
  }
}

const EQUITY_EVERY_MS = 5_000;
const PAGES_MAX = 12;

function Equity({ account }: { account: string }): JSX.Element {
  const [state, setState] = useState<{ linked: Linked | null } | null>(null);
  const [error, setError] = useState<unknown>(null);
  const [turn, setTurn] = useState(0);
  const source = useMemo(() => new EquitySource(), []);
  const panes = useMemo(() => equitySpecs().map((spec) => ({ spec, source })), [source]);
  useEffect(() => {
    const stop = new AbortController();
    const points: { ts: number; equity_usd: number }[] = [];
    let linked: Linked | null = null;
    let timer = 0;
    const load = async (): Promise<void> => {
      let from: number | null = points.length ? points[points.length - 1].ts + 1 : Math.max(0, present() - 7 * DAY_S);
      try {
        for (let page = 0; from !== null && page < PAGES_MAX; page++) {
          const found: { equity: { ts: number; equity_usd: number }[]; next: number | null } = await ask(
            `/v1/accounts/${encodeURIComponent(account)}/equity${query({ from, limit: 1_000 })}`,
            stop.signal,
          );
          points.push(...found.equity);
          from = found.next;
        }
        source.set(points);
        setError(null);
        if (points.length > 1) {
          const whole = { from: points[0].ts, to: points[points.length - 1].ts };
          if (!linked) {
            linked = new Linked(whole);
            setState({ linked });
          } else if (whole.to > linked.whole.to) {
            const [atEnd, by] = [linked.range.to >= linked.whole.to, whole.to - linked.whole.to];
            const all = linked.range.from <= linked.whole.from;
            linked.whole.to = whole.to;
            if (atEnd) linked.show(all ? linked.whole.from : linked.range.from + by, whole.to);
            linked.tell("data");
          }
        } else setState({ linked: null });
      } catch (failed) {
        if (!stop.signal.aborted) setError(failed);
      }
      if (!stop.signal.aborted) timer = window.setTimeout(() => void load(), EQUITY_EVERY_MS);
    };
    void load();
    return () => {
      stop.abort();
      clearTimeout(timer);
    };
  }, [account, source, turn]);
  if (!state) return error === null ? <Waiting what="equity" /> : <Absent what="Equity" error={error} again={() => setTurn((n) => n + 1)} />;
  const { linked } = state;
  if (!linked) return <p class="empty">There is no equity yet: it begins with the account's first minute.</p>;
  return (
    <ChartGroup
      label="Equity and drawdown, linked in time"
      linked={linked}
      panes={panes}
      note="A point a minute and at each fill, the last week."
      onCharts={(charts: Chart[]) => (hooks.group = { linked, charts })}
    />
  );
}

// --- switches ---

interface SwitchesProps {
  account: string;
  limits: Limits | null;
  error: unknown;
  again: () => void;
  positions: Position[] | null;
  refresh: () => void;
}

function Switches(props: SwitchesProps): JSX.Element {
  const { account, limits, positions } = props;
  if (!limits)
    return props.error === null ? (
      <Waiting what="the trading state" />
    ) : (
      <div class="switches">
        <Absent what="The trading state" error={props.error} again={props.again} />
        <button type="button" class="danger" onClick={() => dialog.set(<Switch kind="kill" {...props} />)}>
          Kill switch …
        </button>
      </div>
    );
  const killed = limits.kill_switch === true;
  const state = limits.state ?? "unknown";
  const words_ = killed
    ? "All positions are being ended or are ended; nothing may enter until somebody resumes."
    : state === "active"
      ? "Entries and exits pass."
      : state === "reducing"
        ? "Only what makes positions smaller passes."
        : state === "halted"
          ? "Nothing may enter."
          : "What this state means is not known here.";
  return (
    <div class={`switches ${killed ? "killed" : state}`}>
      <p role="status">
        <strong class="state">{killed ? "killed" : state}</strong> {words_}
        {limits.reason && <small> Reason: {limits.reason}</small>}
      </p>
      <span class="actions">
        {!killed && (
          <button type="button" class="danger" onClick={() => dialog.set(<Switch kind="kill" {...props} />)}>
            Kill switch …
          </button>
        )}
        {(killed || state !== "active") && (
          <button type="button" onClick={() => dialog.set(<Switch kind="resume" {...props} />)}>
            Resume trading …
          </button>
        )}
        {!killed && state === "active" && (
          <button type="button" onClick={() => dialog.set(<Switch kind="reducing" {...props} />)}>
            Reduce only …
          </button>
        )}
      </span>
      <span class="hidden">
        Account {account}, {positions?.length ?? 0} positions
      </span>
    </div>
  );
}

interface Switched {
  state: string;
  kill_switch: boolean;
  reason: string;
  at_ns?: number;
}

/** Say what a switch will do, ask for the token and a reason, do it, and show that it was done. */
function Switch(props: SwitchesProps & { kind: "kill" | "resume" | "reducing" }): JSX.Element {
  const { account, kind } = props;
  const [token, setGiven] = useState("");
  const [keep, setKeep] = useState(false);
  const [reason, setReason] = useState("");
  const [confirm, setConfirm] = useState("");
  const [state, setState] = useState<{ busy: boolean; error: string; done: Switched | null }>({ busy: false, error: "", done: null });
  const positions = props.positions ?? [];
  const title = kind === "kill" ? `Kill switch of ${account}` : kind === "resume" ? `Resume trading of ${account}` : `Reduce only: ${account}`;
  const act = async (): Promise<void> => {
    setState({ busy: true, error: "", done: null });
    if (token) setToken(token, keep);
    const path = `/v1/accounts/${encodeURIComponent(account)}`;
    try {
      const done =
        kind === "kill"
          ? await send<Switched>("POST", `${path}/kill`, { reason })
          : kind === "resume"
            ? await send<Switched>("POST", `${path}/resume`, { reason, confirm })
            : await send<Switched>("POST", `${path}/state`, { state: "reducing", reason });
      setState({ busy: false, error: "", done });
      props.refresh();
    } catch (error) {
      const hint =
        error instanceof Refusal && (error.status === 401 || error.status === 403)
          ? " Nothing was changed: give a token with the executor's role."
          : error instanceof Refusal && error.status === 0
            ? " Whether it was done is not known: look at the state before you try again."
            : "";
      setState({ busy: false, error: `It was refused: ${words(error)}.${hint}`, done: null });
    }
  };
  return (
    <Dialog title={title}>
      {state.done ? (
        <Done account={account} kind={kind} done={state.done} />
      ) : (
        <form
          onSubmit={(event) => {
            event.preventDefault();
            void act();
          }}
        >
          {kind === "kill" ? (
            <>
              <p>This will, at once:</p>
              <ol class="effects">
                <li>let no order in that would open or enlarge a position;</li>
                <li>cancel what is open;</li>
                <li>
                  {props.positions === null
                    ? "end all positions at market (which they are is not known now)."
                    : positions.length === 0
                      ? "end all positions at market; now there is none."
                      : "end all positions at market: "}
                  {positions.map((one) => (
                    <strong key={one.instrument}>
                      {one.qty > 0 ? "sell " : "buy "}
                      {number(Math.abs(one.qty), 4)} {one.asset} ({usd(Math.abs(one.qty * one.mark))}){" "}
                    </strong>
                  ))}
                </li>
              </ol>
              <p>It holds over restarts, until somebody resumes trading.</p>
            </>
          ) : kind === "resume" ? (
            <p>The strategy may open positions again from the next second on. Type the account's name, so that this is never a slip.</p>
          ) : (
            <p>Orders that open or enlarge a position are denied from now on; exits pass. Positions stay.</p>
          )}
          <TokenFields
            value={token}
            keep={keep}
            onChange={(value, kept) => {
              setGiven(value);
              setKeep(kept);
            }}
          />
          <label class="field">
            <span>Reason</span>
            <input
              name="reason"
              required
              maxLength={500}
              value={reason}
              placeholder="why, for the records"
              onInput={(event) => setReason(event.currentTarget.value)}
            />
          </label>
          {kind === "resume" && (
            <label class="field">
              <span>Account</span>
              <input name="confirm" required value={confirm} placeholder={account} autocomplete="off" onInput={(event) => setConfirm(event.currentTarget.value)} />
            </label>
          )}
          {state.error && (
            <p class="warning" role="alert">
              {state.error}
            </p>
          )}
          <p class="actions">
            <button type="button" onClick={() => dialog.set(null)}>
              Leave it
            </button>
            <button type="submit" class={kind === "kill" ? "danger main" : "main"} disabled={state.busy || !reason || (kind === "resume" && confirm !== account)}>
              {state.busy ? "Asking the executor …" : kind === "kill" ? `End everything of ${account}` : kind === "resume" ? "Trade again" : "Reduce only"}
            </button>
          </p>
        </form>
      )}
    </Dialog>
  );
}

/** What the executor answered, and what became of the positions since. */
function Done(props: { account: string; kind: string; done: Switched }): JSX.Element {
  const { done } = props;
  const held = useAsked<Positions>(`/v1/accounts/${encodeURIComponent(props.account)}/positions`, 1);
  const left = held.value?.positions.length;
  const at = done.at_ns ? Math.floor(done.at_ns / 1e9) : now.get();
  return (
    <div class="done">
      <p role="status">
        <strong>Done</strong>: the executor says {done.kill_switch ? "the kill switch is on" : `the state is ${done.state}`}
        {at ? `, since ${day(at) === day(now.get() || at) ? clock(at) : moment(at)} UTC` : ""}
        {done.reason && <>; reason: {done.reason}</>}.
      </p>
      {props.kind === "kill" && (
        <p role="status" class="left">
          {left === undefined
            ? "Looking at what is still held …"
            : left === 0
              ? "Nothing is held any more."
              : `${left} position${left === 1 ? " is" : "s are"} still held; their exits are on the way.`}
        </p>
      )}
      <p class="actions">
        <button type="button" class="main" onClick={() => dialog.set(null)}>
          Close
        </button>
      </p>
    </div>
  );
}

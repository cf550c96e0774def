// One asset, live: charts linked in time that follow the newest second, the whole row at the crosshair, the reasons of a signal.

import type { JSX } from "preact";
import { useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import type { Chart } from "../components/chart";
import { clock, compact, day, duration, moment, number, percent } from "../components/format";
import { ChartGroup } from "../components/group";
import { Linked } from "../components/linked";
import { DataTable, type Column } from "../components/table";
import { ask, query, words } from "./api";
import { isTold, liveSpecs, type Events, type Scene } from "./charts";
import { hooks } from "./hooks";
import { PhaseMark, priceText } from "./overview";
import { Absent, known, line, now, present, seconds, useAsked, Waiting } from "./shared";
import { LiveSource, type Series } from "./source";
import { useWatched, Watched } from "./store";
import { Stream } from "./stream";
import { phaseOf, signOf, type Decision, type Fill, type Instrument, type Row, type Signal } from "./types";
import { WhyPanel } from "./whypanel";

const DAY_S = 86_400;
const TIMEFRAMES: [string, number][] = [
  ["auto", 0],
  ["1 s", 1],
  ["5 s", 5],
  ["1 min", 60],
  ["5 min", 300],
  ["15 min", 900],
  ["1 h", 3_600],
  ["4 h", 14_400],
  ["1 d", DAY_S],
];
const BEFORE_S = 240; // the server remembers more
const WAIT_FIRST_MS = 2_500; // for the stream's first second; then the charts go by this machine's clock

export function AssetPage(props: { asset: string; account: Watched<string>; small: boolean; onBack: () => void }): JSX.Element {
  const { asset, small } = props;
  const [begun, setBegun] = useState(now.get() > 0);
  const [instrument, setInstrument] = useState<Instrument | null | undefined>(undefined);
  const newest = useMemo(() => new Watched<Row | null>(null), [asset]);
  const live = useMemo(() => new Live(asset), [asset]);

  useLayoutEffect(() => {
    void live.begin(newest);
    const wait = setTimeout(() => setBegun(true), WAIT_FIRST_MS);
    const stop = newest.on(() => setBegun(true));
    return () => {
      stop();
      clearTimeout(wait);
      live.close();
    };
  }, [live, newest]);
  useEffect(() => {
    void Promise.all([known(), ask<Partial<Record<string, { traded: string }>>>("/v1/assets")]).then(
      ([all, assets]) => setInstrument((all as Partial<typeof all>)[assets[asset]?.traded ?? ""] ?? null),
      () => setInstrument(null),
    );
  }, [asset]);

  return (
    <section class="asset" aria-labelledby="asset-title">
      <div class="bar">
        <button type="button" class="back" onClick={props.onBack} aria-label="Back to all assets">
          ← all
        </button>
        <h2 id="asset-title">
          {asset} <small>{instrument?.id ?? ""}</small>
        </h2>
        <Headline newest={newest} />
      </div>
      {begun && instrument !== undefined ? (
        <Stage asset={asset} instrument={instrument} live={live} newest={newest} small={small} account={props.account} />
      ) : (
        <Waiting what={`${asset}'s newest second`} />
      )}
      <h3>
        Venues <small>what each market had of the flow</small>
      </h3>
      <Venues asset={asset} />
    </section>
  );
}

/** The asset's stream, and what it brought. */
class Live {
  readonly source: LiveSource;
  readonly streamed = new Watched<Events>({ signals: [], decisions: [], fills: [] });
  linked: Linked | null = null;
  follow = true;
  private stream: Stream | null = null;
  private closed = false;
  private tellFrom = 0;

  constructor(readonly asset: string) {
    const load = (from: number, to: number, step: number): Promise<Series> =>
      ask<Series>(`/v1/assets/${encodeURIComponent(asset)}/series${query({ from, to, step })}`);
    this.source = new LiveSource(load, () => this.linked?.tell("data"));
  }

  /** Begin some minutes before the newest second, where the store is complete. */
  async begin(newest: Watched<Row | null>): Promise<void> {
    line.set({ state: "connecting" });
    let ts: number | null = now.get() || null;
    ts ??= await ask<{ ts: number | null }>("/v1/board").then((board) => board.ts, () => null);
    if (!this.closed) this.open(newest, ts);
  }

  private open(newest: Watched<Row | null>, ts: number | null): void {
    const stream = new Stream(
      `/v1/assets/${encodeURIComponent(this.asset)}/stream`,
      (told) => {
        if (told.name === "row") {
          const row = JSON.parse(told.data) as Row;
          if (!stream.seconds.take(row.ts)) return;
          this.source.take(row);
          if (row.ts < this.tellFrom) return; // what came before the page was opened: drawn with the second that it leads to
          newest.set(row);
          now.set(row.ts);
          this.move(row.ts + 1);
        } else if (told.name === "gap") {
          stream.seconds.skip((JSON.parse(told.data) as { to: number }).to);
          this.source.skip();
        } else this.record(told.name, told.data);
      },
      (state) => line.set(state),
      ts === null ? null : Math.max(0, ts - BEFORE_S),
    );
    this.tellFrom = ts ?? 0;
    this.stream = stream;
    seconds.set(stream.seconds);
    hooks.stream = stream;
  }

  close(): void {
    this.closed = true;
    this.stream?.close();
    this.source.close();
  }

  private record(name: string, data: string): void {
    const before = this.streamed.get();
    if (name === "signal") this.streamed.set({ ...before, signals: [...before.signals, JSON.parse(data) as Signal] });
    else if (name === "decision") this.streamed.set({ ...before, decisions: [...before.decisions, JSON.parse(data) as Decision] });
    else if (name === "fill") this.streamed.set({ ...before, fills: [...before.fills, JSON.parse(data) as Fill] });
  }

  /** Time goes on: what stood at the newest second stays there. */
  private move(to: number): void {
    const { linked } = this;
    if (!linked) return;
    const by = to - linked.whole.to;
    const atEnd = linked.range.to >= linked.whole.to - 1e-6;
    linked.whole.to = Math.max(linked.whole.to, to);
    if (this.follow && atEnd && by > 0) linked.show(linked.range.from + by, linked.range.to + by);
    linked.tell("data");
  }
}

function Headline({ newest }: { newest: Watched<Row | null> }): JSX.Element {
  const row = useWatched(newest);
  if (!row) return <span class="headvalues" />;
  const side = signOf(row.direction);
  return (
    <span class="headvalues">
      <strong>{priceText(row.close)}</strong>
      <PhaseMark phase={phaseOf(row.phase)} direction={side} />
      <span>
        score <b class={side > 0 ? "good" : side < 0 ? "bad" : ""}>{number(row.score === null ? null : Math.abs(row.score), 2)}</b>
        <small> of 10</small>
      </span>
      <small>{clock(row.ts)} UTC</small>
    </span>
  );
}

interface StageProps {
  asset: string;
  instrument: Instrument | null;
  live: Live;
  newest: Watched<Row | null>;
  small: boolean;
  account: Watched<string>;
}

const NO_EVENTS: Events = { signals: [], decisions: [], fills: [] };

function Stage({ asset, instrument, live, newest, small, account }: StageProps): JSX.Element {
  const [chosen, setChosen] = useState<number | null>(null);
  const [anchor, setAnchor] = useState<number | null>(null);
  const [timeframe, setTimeframe] = useState(0);
  const name = useWatched(account);
  const scene = useRef<Scene>({ asset, instrument, events: NO_EVENTS, anchor: null, chosen: null, entry: 4 });
  const drawn = useRef<Chart[]>([]);
  const { source } = live;
  const linked = useMemo(() => {
    const to = present() + 1;
    const made = new Linked({ from: to - 30 * DAY_S, to });
    made.range = { from: to - (small ? 300 : 900), to };
    live.linked = made;
    return made;
  }, [live]);
  const { events, error } = useEvents(asset, name, linked, live.streamed);
  const stage = useRef<HTMLDivElement>(null);

  useEffect(() => {
    void ask<{ assets?: { first_ts?: number }[] }>(`/v1/coverage${query({ name: asset })}`).then(
      (found) => {
        const first = Math.min(...(found.assets ?? []).map((one) => one.first_ts ?? Infinity));
        if (Number.isFinite(first)) linked.whole.from = Math.min(first, linked.range.from);
      },
      () => undefined, // then a month is what one can scroll through
    );
    void ask<{ properties?: unknown }>("/v1/parameters/schema").then(
      (schema) => {
        const entry = defaultOf(schema, "entry_score");
        if (entry !== null) scene.current.entry = entry;
      },
      () => undefined,
    );
  }, [asset, linked]);

  useLayoutEffect(() => {
    scene.current = { ...scene.current, asset, instrument, events, anchor, chosen };
    source.anchor = anchor;
    for (const chart of drawn.current) {
      chart.redraw();
      chart.repaint();
    }
  }, [asset, instrument, events, anchor, chosen, source]);

  const pick = useCallback((ts: number) => setChosen(ts), []);
  const anchorAt = useCallback((ts: number) => setAnchor(ts), []);
  const panes = useMemo(
    () => liveSpecs(() => scene.current, small, pick, anchorAt).map((spec) => ({ spec, source })),
    [source, small, instrument, pick, anchorAt],
  );
  const show = (seconds: number): void => {
    setTimeframe(seconds);
    source.chosen = seconds;
    const width = drawn.current[0]?.plot.over.clientWidth || 800;
    const span = seconds ? seconds * Math.max(20, Math.min(240, Math.round(width / 6))) : small ? 300 : 900;
    linked.show(linked.whole.to - span, linked.whole.to);
    linked.tell("data");
  };
  const today = Math.floor(present() / DAY_S) * DAY_S;
  const listed = useMemo(
    () => [...new Set([...events.signals, ...events.decisions.filter(isTold)].map((one) => one.ts))].sort((a, b) => a - b),
    [events],
  );
  const step = (by: number): void => {
    const from = chosen ?? linked.range.to;
    const next = by < 0 ? listed.filter((ts) => ts < from).at(-1) : listed.find((ts) => ts > from);
    if (next === undefined) return;
    setChosen(next);
    if (next < linked.range.from || next > linked.range.to) {
      const half = (linked.range.to - linked.range.from) / 2;
      linked.moveTo(next - half, next + half);
    }
  };

  return (
    <div ref={stage} class={chosen === null ? "stage" : "stage chosen"}>
      <div
        onKeyDown={(event) => {
          if (event.key === "a" && linked.cursor !== null) setAnchor(Math.floor(linked.cursor));
          else if (event.key === "Escape" && chosen !== null) setChosen(null);
        }}
      >
        <ChartGroup
          label={`${asset}: charts of price, flow, open interest, funding and score, linked in time`}
          linked={linked}
          panes={panes}
          note="Click a signal or fill for its reasons, the CVD to set its anchor there, the score to explain a second (keys: a anchors at the crosshair). Scores are known in rows of up to 5 min."
          onCharts={(charts) => {
            drawn.current = charts;
            source.width = charts[0]?.plot.over.clientWidth || 800;
            hooks.group = { linked, charts };
          }}
          spans={<Now linked={linked} source={source} />}
        >
          <span class="buttons" role="group" aria-label="Timeframe">
            {TIMEFRAMES.map(([text, seconds]) => (
              <button key={text} type="button" aria-pressed={timeframe === seconds} onClick={() => show(seconds)}>
                {text}
              </button>
            ))}
          </span>
          <span class="anchors">
            CVD from{" "}
            <span class="buttons" role="group" aria-label="Anchor of the CVD">
              <button type="button" aria-pressed={anchor === null} onClick={() => setAnchor(null)}>
                left edge
              </button>
              <button type="button" aria-pressed={anchor === today} onClick={() => setAnchor(today)}>
                UTC day
              </button>
              {anchor !== null && anchor !== today && (
                <button type="button" aria-pressed={true} title="Click the CVD chart to move it">
                  {day(anchor) === day(today) ? clock(anchor) : moment(anchor)}
                </button>
              )}
            </span>
          </span>
          {listed.length > 0 && (
            <span class="buttons" role="group" aria-label="Signals">
              <button type="button" onClick={() => step(-1)} aria-label="Signal before">
                ← signal
              </button>
              <button type="button" onClick={() => step(1)} aria-label="Signal after">
                signal →
              </button>
            </span>
          )}
        </ChartGroup>
        {error !== null && <p class="hint warning">Signals and fills of account {name} are not shown: {words(error)}.</p>}
        <WholeRow linked={linked} live={live} newest={newest} instrument={instrument} />
      </div>
      {chosen !== null && (
        <WhyPanel
          asset={asset}
          ts={chosen}
          account={name}
          events={events}
          instrument={instrument}
          onStep={step}
          onClose={() => {
            setChosen(null);
            stage.current?.querySelector<HTMLElement>(".charts")?.focus();
          }}
        />
      )}
    </div>
  );
}

/** Look for a parameter's default anywhere in a schema. */
function defaultOf(schema: unknown, name: string): number | null {
  if (typeof schema !== "object" || schema === null) return null;
  for (const [key, value] of Object.entries(schema)) {
    if (key === name) {
      const found = (value as { default?: unknown } | null)?.default;
      if (typeof found === "number") return found;
    }
    const inner = defaultOf(value, name);
    if (inner !== null) return inner;
  }
  return null;
}

/** The span that is shown, whether it follows the newest second, and what is being loaded. */
function Now({ linked, source }: { linked: Linked; source: LiveSource }): JSX.Element {
  const [, again] = useState(0);
  useEffect(() => linked.on((change) => change !== "cursor" && again((n) => n + 1)), [linked]);
  const { from, to } = linked.range;
  const atEnd = to >= linked.whole.to - 1e-6;
  const length = to - from;
  const step = source.step(linked.range);
  return (
    <>
      <button type="button" aria-pressed={atEnd} onClick={() => linked.show(linked.whole.to - length, linked.whole.to)}>
        {atEnd ? "following" : "to now →"}
      </button>
      <span class="range">
        <span class="loadstate" role="status">
          {source.error !== null ? <span class="bad">rows were not loaded: {words(source.error)}; asked again</span> : source.loading ? "loading …" : ""}
        </span>{" "}
        {day(from) === day(to - 1) ? `${moment(from)} – ${clock(to)}` : `${moment(from, false)} – ${moment(to, false)}`} UTC{" "}
        <small>
          {duration(length)} in rows of {duration(step)}
        </small>
      </span>
    </>
  );
}

const FIELDS: [name: string, label: string, show: (value: number, decimals: number) => string][] = [
  ["open", "Open", number],
  ["high", "High", number],
  ["low", "Low", number],
  ["close", "Close", number],
  ["mark", "Mark", number],
  ["spot_delta", "Spot delta", (v) => `${compact(v, true)} USD`],
  ["perp_delta", "Perp delta", (v) => `${compact(v, true)} USD`],
  ["spot_volume", "Spot volume", (v) => `${compact(v)} USD`],
  ["perp_volume", "Perp volume", (v) => `${compact(v)} USD`],
  ["buy_qty", "Bought", (v) => compact(v)],
  ["sell_qty", "Sold", (v) => compact(v)],
  ["open_interest", "Open interest", (v) => compact(v)],
  ["oi_known_at", "… known at", (v) => `${clock(v)} UTC`],
  ["funding_rate_8h", "Funding 8 h", (v) => percent(v, 4, true)],
  ["basis_bps", "Basis", (v) => `${number(v, 2, true)} bp`],
  ["quality", "Complete", (v) => percent(v, 0)],
  ["score", "Score", (v) => `${number(v, 3)} of 10`],
  ["reset_low", "Reset low", number],
  ["reset_high", "Reset high", number],
];

/** The whole row of the second at the crosshair; without one, the newest. */
function WholeRow(props: { linked: Linked; live: Live; newest: Watched<Row | null>; instrument: Instrument | null }): JSX.Element {
  const { linked, live, newest } = props;
  const latest = useWatched(newest);
  const [cursor, setCursor] = useState<number | null>(null);
  const [, again] = useState(0);
  const [state, setState] = useState("");
  useEffect(() => linked.on((change) => change === "cursor" && setCursor(linked.cursor === null ? null : Math.floor(linked.cursor))), [linked]);
  const ts = cursor ?? latest?.ts ?? null;
  const row = ts === null ? null : (live.source.row(ts) ?? (cursor === null ? latest : null));
  useEffect(() => {
    if (cursor === null || live.source.row(cursor)) {
      setState("");
      return;
    }
    setState("loading …");
    const timer = setTimeout(() => {
      void ask<Series>(`/v1/assets/${encodeURIComponent(live.asset)}/series${query({ from: cursor, to: cursor + 1, step: 1 })}`).then(
        (found) => {
          if (found.ts[0] !== cursor) {
            setState("there is no row of this second");
            return;
          }
          live.source.remember(
            Object.fromEntries(Object.entries(found).flatMap(([key, column]) => (Array.isArray(column) ? [[key, column[0]]] : []))) as Row,
          );
          setState("");
          again((n) => n + 1);
        },
        (error: unknown) => setState(`not loaded: ${words(error)}`),
      );
    }, 150);
    return () => clearTimeout(timer);
  }, [cursor, live]);
  const decimals = Math.min(props.instrument?.price_decimals ?? 2, 8);
  const parts = Object.entries(row?.parts ?? {}).filter(([, value]) => typeof value === "number") as [string, number][];
  return (
    <section class="wholerow" aria-label="The whole row of the second">
      <h3>
        {cursor === null ? "The newest second" : "The second at the crosshair"}{" "}
        <small data-ts={row?.ts ?? ""}>{ts === null ? "" : `${moment(ts)} UTC`}</small> <small role="status">{state}</small>
      </h3>
      <dl>
        {FIELDS.flatMap(([name, label, show]) => {
          const value = row?.[name];
          if (typeof value !== "number" || (name.startsWith("reset_") && value === 0)) return [];
          return [
            <div key={name} class={`r-${name}`}>
              <dt>{label}</dt>
              <dd>{show(name === "score" ? Math.abs(value) : value, decimals)}</dd>
            </div>,
          ];
        })}
        {row?.phase !== undefined && row.phase !== null && (
          <div class="r-phase">
            <dt>Phase</dt>
            <dd>
              <PhaseMark phase={phaseOf(row.phase)} direction={signOf(row.direction ?? row.score)} />
            </dd>
          </div>
        )}
        {parts.map(([name, value]) => (
          <div key={name} class={`r-${name}`}>
            <dt>Part: {name.replaceAll("_", " ")}</dt>
            <dd>{number(value, 2, true)}</dd>
          </div>
        ))}
      </dl>
    </section>
  );
}

/** Signals, records and fills around what is shown: loaded as one scrolls, and those that come by the stream. */
function useEvents(
  asset: string,
  account: string,
  linked: Linked,
  streamed: Watched<Events>,
): { events: Events; error: unknown } {
  const live = useWatched(streamed);
  const [loaded, setLoaded] = useState<Events>(NO_EVENTS);
  const [error, setError] = useState<unknown>(null);
  useEffect(() => {
    const held = { from: Infinity, to: -Infinity };
    let timer = 0;
    let stop = new AbortController();
    const load = async (): Promise<void> => {
      const { from, to } = linked.range;
      if (from >= held.from && to <= held.to) return;
      const span = to - from;
      const [first, last] = [Math.max(0, Math.floor(from - span)), Math.ceil(to + span)];
      stop.abort();
      stop = new AbortController();
      const { signal } = stop;
      const path = `/v1/accounts/${encodeURIComponent(account)}`;
      const asked = { from: first, to: last, limit: 1_000 };
      try {
        const [signals, decisions, fills] = await Promise.all([
          ask<{ signals: Signal[] }>(`${path}/signals${query(asked)}`, signal),
          ask<{ decisions: Decision[] }>(`${path}/decisions${query({ ...asked, asset })}`, signal),
          ask<{ fills: Fill[] }>(`${path}/fills${query(asked)}`, signal),
        ]);
        const mine = <T extends { asset: string }>(all: T[]): T[] => all.filter((one) => one.asset === asset);
        [held.from, held.to] = [first, last];
        setLoaded({ signals: mine(signals.signals), decisions: mine(decisions.decisions), fills: mine(fills.fills) });
        setError(null);
      } catch (failed) {
        if (!signal.aborted) setError(failed);
      }
    };
    const soon = (): void => {
      clearTimeout(timer);
      timer = window.setTimeout(() => void load(), 250);
    };
    soon();
    const off = linked.on((change) => change === "range" && soon());
    return () => {
      off();
      clearTimeout(timer);
      stop.abort();
    };
  }, [asset, account, linked]);
  const events = useMemo(
    () => ({
      signals: joined(loaded.signals, live.signals, (one) => `${one.ts}`),
      decisions: joined(loaded.decisions, live.decisions, (one) => `${one.ts} ${one.kind}`),
      fills: joined(loaded.fills, live.fills, (one) => one.id),
    }),
    [loaded, live],
  );
  return { events, error };
}

const joined = <T,>(stored: T[], streamed: T[], key: (one: T) => string): T[] => [
  ...new Map([...stored, ...streamed].map((one) => [key(one), one])).values(),
];

interface Venue {
  venue: string;
  instrument: string;
  kind: string;
  traded?: boolean;
  weight: number | null;
  share_1h: number | null;
  share_24h: number | null;
  delta_1h_usd: number | null;
  lag_s: number | null;
  completeness_1h: number | null;
  completeness_24h: number | null;
  last_error: string | null;
}

const VENUES: Column<Venue>[] = [
  {
    head: "Market",
    value: (row) => row.instrument,
    left: true,
    show: (row) => (
      <>
        {row.instrument} {row.traded && <b title="The strategy trades here">traded</b>}
      </>
    ),
  },
  { head: "Kind", value: (row) => row.kind, left: true },
  { head: "Weight", value: (row) => row.weight, show: (row) => number(row.weight, 2) },
  { head: "Share 1 h", title: "Share of the asset's volume, last hour", value: (row) => row.share_1h, show: (row) => percent(row.share_1h, 1) },
  { head: "Share 24 h", value: (row) => row.share_24h, show: (row) => percent(row.share_24h, 1) },
  {
    head: "Delta 1 h",
    unit: "USD",
    value: (row) => row.delta_1h_usd,
    show: (row) => compact(row.delta_1h_usd, true),
    tone: (row) => row.delta_1h_usd ?? 0,
  },
  { head: "Lag", unit: "s", value: (row) => row.lag_s, show: (row) => number(row.lag_s, 2) },
  { head: "Complete 1 h", value: (row) => row.completeness_1h, show: (row) => percent(row.completeness_1h, 2) },
  { head: "Complete 24 h", value: (row) => row.completeness_24h, show: (row) => percent(row.completeness_24h, 2) },
  {
    head: "Last error",
    value: (row) => row.last_error,
    left: true,
    show: (row) =>
      row.last_error ? <span class="words">{row.last_error}</span> : <span class="none">{row.last_error === null ? "not known" : "none"}</span>,
  },
];

function Venues({ asset }: { asset: string }): JSX.Element {
  const { value, error, again } = useAsked<{ markets: Venue[]; feeds_error: string }>(`/v1/assets/${encodeURIComponent(asset)}/venues`, 5);
  if (!value) return error === null ? <Waiting what="the venues" /> : <Absent what="The venue table" error={error} again={again} />;
  if (value.markets.length === 0) return <p class="empty">No market is watched for {asset}.</p>;
  return (
    <>
      {value.feeds_error && <p class="hint warning">Lags and errors are not known: {value.feeds_error}.</p>}
      <DataTable label={`${asset}'s venues`} columns={VENUES} rows={value.markets} keyOf={(row) => row.instrument} sort={{ column: 3, down: true }} />
    </>
  );
}

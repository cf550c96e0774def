// How whole the data is: per venue and market its lag, gaps, duplicates, completeness, and the last error.

import type { JSX } from "preact";
import { useMemo } from "preact/hooks";
import { clock, duration, number, percent } from "../components/format";
import { DataTable, type Column } from "../components/table";
import { Absent, now, useAsked, Waiting } from "./shared";
import { useWatched } from "./store";
import type { Maybe } from "./types";

interface Gaps {
  found: number;
  filled: number;
  open: number;
  missing_open?: number;
}

export interface Market {
  venue: string;
  instrument: string;
  section?: string | null;
  lag_s: Maybe;
  skew_s: Maybe;
  gaps: Gaps | null;
  completeness_1h: Maybe;
  completeness_24h: Maybe;
  minutes: Maybe[]; // shares of the last hour's minutes
  hours: Maybe[];
  last_error: string | null;
}

interface Feed {
  section: string;
  state: string;
  alive: boolean;
  instruments: string[];
  trades_doubled?: number;
  holes_open?: number;
}

export interface Quality {
  to: Maybe; // s, UTC: the strips end here
  markets: Market[];
  feeds: Feed[];
  feeds_error: string; // why the live part is not known
}

interface Told extends Market {
  feed: Feed | undefined;
}

const columns = (end: number): Column<Told>[] => [
  { head: "Market", value: (row) => row.instrument, left: true },
  {
    head: "Last hour",
    value: (row) => row.completeness_1h,
    show: (row) => <Strip values={row.minutes} share={row.completeness_1h} stepS={60} end={end} what="minute" />,
  },
  {
    head: "Last day",
    value: (row) => row.completeness_24h,
    show: (row) => <Strip values={row.hours} share={row.completeness_24h} stepS={3_600} end={end} what="hour" />,
  },
  {
    head: "State",
    value: (row) => row.feed?.state ?? null,
    left: true,
    show: (row) => <span class={row.feed?.alive === false ? "bad" : ""}>{row.feed ? `${row.feed.state.toLowerCase()}${row.feed.alive ? "" : ", silent"}` : "not known"}</span>,
  },
  { head: "Lag", unit: "s", title: "From the venue's clock to ours", value: (row) => row.lag_s, show: (row) => number(row.lag_s, 2) },
  { head: "Skew", unit: "s", title: "How far the venue's clock is from ours", value: (row) => row.skew_s, show: (row) => number(row.skew_s, 3, true) },
  { head: "Gaps", title: "Found within the last day", value: (row) => row.gaps?.found ?? null, show: (row) => number(row.gaps?.found ?? null) },
  { head: "filled", value: (row) => row.gaps?.filled ?? null, show: (row) => number(row.gaps?.filled ?? null) },
  {
    head: "open",
    value: (row) => row.gaps?.open ?? null,
    show: (row) => number(row.gaps?.open ?? null),
    tone: (row) => -(row.gaps?.open ?? 0),
  },
  {
    head: "Doubles",
    title: "Trades that came twice on this market's feed and counted once",
    value: (row) => row.feed?.trades_doubled ?? null,
    show: (row) => number(row.feed?.trades_doubled ?? null),
  },
  {
    head: "Last error",
    value: (row) => row.last_error,
    left: true,
    show: (row) =>
      row.last_error ? <span class="words">{row.last_error}</span> : <span class="none">{row.last_error === null ? "not known" : "none"}</span>,
  },
];

/** Each step's share of whole seconds, as a strip from the oldest to the newest. */
function Strip(props: { values: Maybe[]; share: Maybe; stepS: number; end: number; what: string }): JSX.Element {
  const { values, stepS } = props;
  const worst = values.reduce<number | null>((least, one) => (one === null ? least : least === null ? one : Math.min(least, one)), null);
  const wide = 120 / Math.max(1, values.length);
  return (
    <span class="stripbox">
      <span>{percent(props.share, 2)}</span>
      <svg
        class="strip"
        width="120"
        height="16"
        viewBox="0 0 120 16"
        role="img"
        aria-label={`by ${props.what}, ${duration(values.length * stepS)}: the worst ${percent(worst, 1)}`}
      >
        {values.map((value, index) => {
          const level = value === null ? 0 : value >= 0.9999 ? 4 : value >= 0.99 ? 3 : value >= 0.9 ? 2 : 1;
          return (
            <rect key={index} class={`level${level}`} x={index * wide} y="0" width={Math.max(1, wide - 0.5)} height="16">
              <title>{`${clock(props.end - (values.length - index) * stepS, false)} UTC: ${value === null ? "nothing known" : percent(value, 1)}`}</title>
            </rect>
          );
        })}
      </svg>
    </span>
  );
}

export function QualityPage(): JSX.Element {
  const { value, error, again } = useAsked<Quality>("/v1/quality", 5);
  const ts = useWatched(now);
  const minute = Math.floor((value?.to ?? ts) / 60);
  const rows = useMemo(
    () => value?.markets.map((one): Told => ({ ...one, feed: value.feeds.find((feed) => feed.instruments.includes(one.instrument)) })),
    [value],
  );
  const shown = useMemo(() => columns(minute * 60), [minute]);
  return (
    <section class="qualitypage" aria-labelledby="quality-title">
      <div class="bar">
        <h2 id="quality-title">
          Data quality <small>{value ? `${value.markets.length} markets` : ""}</small>
        </h2>
        <p class="hint scale">
          Share of whole seconds: <i class="whole4" /> all <i class="whole3" /> ≥ 99 % <i class="whole2" /> ≥ 90 %{" "}
          <i class="whole1" /> less <i class="whole0" /> unknown. Oldest left, UTC.
        </p>
      </div>
      {value?.feeds_error && <p class="warning">State, lag and errors are not known: {value.feeds_error}. What the store holds is shown.</p>}
      {error !== null && value && <p class="warning">Shown as it was: it cannot be asked again now.</p>}
      {!value ? (
        error === null ? (
          <Waiting what="the quality of each market" />
        ) : (
          <Absent what="Data quality" error={error} again={again} />
        )
      ) : value.markets.length === 0 ? (
        <p class="empty">No market is watched yet.</p>
      ) : (
        <DataTable label="Data quality by market" columns={shown} rows={rows!} keyOf={(row) => row.instrument} />
      )}
      <Services />
    </section>
  );
}

interface Status {
  service?: string;
  state?: string;
  messages?: number;
  errors?: number;
  last_error?: string;
  [more: string]: unknown;
}

function Services(): JSX.Element {
  const { value, error, again } = useAsked<Record<string, Status> | { services: Record<string, Status> | Status[] }>("/v1/services", 5);
  const inner = value && "services" in value ? (value.services as Record<string, Status> | Status[]) : value;
  const rows = inner ? (Array.isArray(inner) ? inner : Object.entries(inner).map(([service, one]) => ({ ...one, service }))) : null;
  return (
    <>
      <h3>Services</h3>
      {rows ? (
        rows.length ? (
          <DataTable label="Services" columns={SERVICES} rows={rows} keyOf={(row) => row.service ?? ""} />
        ) : (
          <p class="empty">No other service is known here.</p>
        )
      ) : error === null ? (
        <Waiting what="the services" />
      ) : (
        <Absent what="The services' state" error={error} again={again} />
      )}
    </>
  );
}

const SERVICES: Column<Status>[] = [
  { head: "Service", value: (row) => row.service ?? "", left: true },
  {
    head: "State",
    value: (row) => row.state ?? null,
    left: true,
    show: (row) => <span class={row.state === "UNREACHABLE" || row.state === "FAILED" ? "bad" : ""}>{row.state?.toLowerCase() ?? "not told"}</span>,
  },
  { head: "Messages", value: (row) => row.messages ?? null, show: (row) => number(row.messages ?? null) },
  { head: "Errors", value: (row) => row.errors ?? null, show: (row) => number(row.errors ?? null), tone: (row) => -(row.errors ?? 0) },
  {
    head: "Last error",
    value: (row) => row.last_error ?? null,
    left: true,
    show: (row) => (row.last_error ? <span class="words">{row.last_error}</span> : <span class="none">none</span>),
  },
];

// Every asset a line: what both flows did, what was made of it, and what is held. Cells change in place each second.

import type { JSX } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { clock, compact, number, usd } from "../components/format";
import { Waiting } from "./shared";
import { useWatched, type Watched } from "./store";
import { PHASE_WORDS, WINDOWS, type Board, type BoardRow, type Maybe } from "./types";

export type Sparks = Record<string, Maybe[]>;

interface Column {
  id: string;
  head: string;
  unit?: string;
  title: string;
  group?: string;
  value: (row: BoardRow) => number | string | null;
}

const windowed = (id: string, group: string, words: string, of: (row: BoardRow) => Maybe[]): Column[] =>
  WINDOWS.map((window, index) => ({
    id: `${id}-${window}`,
    head: window,
    title: `${words} of the last ${window}`,
    group,
    value: (row) => of(row)[index] ?? null,
  }));

const COLUMNS: Column[] = [
  { id: "asset", head: "Asset", title: "Asset", value: (row) => row.asset },
  { id: "close", head: "Price", title: "Last price of the traded instrument", value: (row) => row.close },
  { id: "chg24h", head: "24 h", unit: "%", title: "Change over 24 hours, %", value: (row) => row.chg24h_pct },
  ...windowed("zspot", "Spot flow, swings", "Spot flow in typical swings", (row) => row.z_spot),
  ...windowed("zperp", "Perp flow, swings", "Perp flow in typical swings", (row) => row.z_perp),
  ...windowed("oi", "Open interest, %", "Change of open interest, %,", (row) => row.oi_chg_pct),
  { id: "funding", head: "Fund", unit: "bp", title: "Funding over 8 hours, basis points", value: (row) => row.funding_8h_bp },
  { id: "basis", head: "Basis", unit: "bp", title: "Perp mark over spot, basis points", value: (row) => row.basis_bp },
  { id: "phase", head: "Phase", title: "Phase of the reset machine and who is trapped", value: (row) => phaseRank(row) },
  {
    id: "score",
    head: "Score",
    title: "Score of 10, signed by direction; the last hour beside it",
    value: (row) => (row.score === null ? null : Math.abs(row.score)),
  },
  { id: "position", head: "Position", unit: "USD", title: "Position, USD, and its unrealised result", value: (row) => row.position_usd },
];

const phaseRank = (row: BoardRow): number | null =>
  row.phase === null ? null : ["IDLE", "IMBALANCED", "RESET_A", "RESET_B"].indexOf(row.phase);

interface Props {
  board: Watched<Board | null>;
  sparks: Watched<Sparks>;
  onOpen: (asset: string) => void;
}

export function Overview({ board: watched, sparks: lines, onOpen }: Props): JSX.Element {
  const board = useWatched(watched);
  const sparks = useWatched(lines);
  const [sort, setSort] = useState({ id: "score", down: true });
  const [search, setSearch] = useState("");
  const [current, setCurrent] = useState<string | null>(null);
  const order = useRef<string[]>([]);
  const [pointed, setPointed] = useState(false);
  const [focused, setFocused] = useState(false); // an element that changes its place would lose the focus
  const held = (pointed || focused) && order.current.length > 0;
  const table = useRef<HTMLTableElement>(null);
  const field = useRef<HTMLInputElement>(null);

  useEffect(() => {
    const hear = (event: KeyboardEvent): void => {
      if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
      if (event.target instanceof HTMLInputElement || event.target instanceof HTMLTextAreaElement) return;
      event.preventDefault();
      field.current?.focus();
      field.current?.select();
    };
    document.addEventListener("keydown", hear);
    return () => document.removeEventListener("keydown", hear);
  }, []);

  const column = COLUMNS.find((one) => one.id === sort.id)!;
  const shown = useMemo(() => {
    if (!board) return [];
    const wanted = search.trim().toUpperCase();
    const rows = board.rows.filter((row) => row.asset.toUpperCase().includes(wanted));
    const sign = sort.down ? -1 : 1;
    const sorted = [...rows].sort((a, b) => {
      const [left, right] = [column.value(a), column.value(b)];
      if (left === null || right === null) return left === right ? a.asset.localeCompare(b.asset) : left === null ? 1 : -1;
      const by = typeof left === "string" ? left.localeCompare(String(right)) : left - Number(right);
      return sign * by || a.asset.localeCompare(b.asset);
    });
    if (held) {
      // Lines do not change places under a hand that is about to open one.
      const place = new Map(order.current.map((asset, index) => [asset, index]));
      sorted.sort((a, b) => (place.get(a.asset) ?? 1e9) - (place.get(b.asset) ?? 1e9));
    } else order.current = sorted.map((row) => row.asset);
    return sorted;
  }, [board, search, sort, held, column]);

  const resort = (id: string): void => {
    order.current = [];
    setSort({ id, down: sort.id === id ? !sort.down : id !== "asset" });
  };
  const focusRow = (index: number): void => {
    const row = table.current?.querySelectorAll<HTMLElement>("tbody tr")[Math.max(0, Math.min(shown.length - 1, index))];
    row?.focus();
  };
  const keys = (event: KeyboardEvent): void => {
    const at = (event.target as HTMLElement).closest<HTMLElement>("tbody tr");
    if (!at) return;
    const index = shown.findIndex((row) => row.asset === at.dataset.asset);
    const steps: Partial<Record<string, number>> = {
      ArrowDown: index + 1,
      ArrowUp: index - 1,
      PageDown: index + 10,
      PageUp: index - 10,
      Home: 0,
      End: shown.length - 1,
    };
    const to = steps[event.key];
    if (event.key === "Enter") onOpen(at.dataset.asset!);
    else if (to !== undefined) focusRow(to);
    else return;
    event.preventDefault();
  };

  if (!board) return <Waiting what="the board" />;
  const first = shown.some((row) => row.asset === current) ? current : shown[0]?.asset;
  return (
    <section class="overview" aria-labelledby="overview-title">
      <div class="bar">
        <h2 id="overview-title">
          Overview <small>{board.rows.length} assets</small>
        </h2>
        <label class="search">
          <span class="hidden">Search an asset</span>
          <input
            ref={field}
            type="search"
            placeholder="Search  /"
            value={search}
            onInput={(event) => setSearch(event.currentTarget.value)}
            onKeyDown={(event) => {
              if (event.key === "Escape") {
                setSearch("");
                event.currentTarget.blur();
              } else if (event.key === "ArrowDown") {
                event.preventDefault();
                focusRow(0);
              } else if (event.key === "Enter" && shown.length) onOpen(shown[0].asset);
            }}
          />
        </label>
        <label class="sortby">
          Sort by{" "}
          <select value={sort.id} onChange={(event) => resort(event.currentTarget.value)}>
            {COLUMNS.map((one) => (
              <option key={one.id} value={one.id}>
                {one.group ? `${one.group.split(",")[0]} ${one.head}` : one.head}
              </option>
            ))}
          </select>
        </label>
        <span class="legendheat hint" aria-hidden="true">
          sold <i class="heat down4" />
          <i class="heat down2" /> 0 <i class="heat up2" />
          <i class="heat up4" /> bought, in typical swings
        </span>
      </div>
      {board.rows.length === 0 ? (
        <p class="empty">No asset is watched yet: PUT /v1/assets says what is, and this page follows.</p>
      ) : shown.length === 0 ? (
        <p class="empty">No asset has “{search}” in its name. Escape shows all.</p>
      ) : (
        <div class="scroll" role="region" aria-label="All assets">
          <table ref={table} class="board data opens" onKeyDown={keys}>
            <caption class="hidden">Every asset: price, flows, open interest, funding, basis, phase, score, position. Times UTC.</caption>
            <thead>
              <tr class="groups">
                {groups().map(([name, span]) => (
                  <th key={name} colSpan={span} scope="colgroup" class={name ? "named" : ""}>
                    {name.trim()}
                  </th>
                ))}
              </tr>
              <tr>
                {COLUMNS.map((one) => (
                  <th
                    key={one.id}
                    scope="col"
                    class={`k-${one.id}${one.id === "asset" ? " left" : ""}`}
                    aria-sort={sort.id === one.id ? (sort.down ? "descending" : "ascending") : "none"}
                  >
                    <button type="button" title={`${one.title}: sort`} onClick={() => resort(one.id)}>
                      {one.head}
                      {one.unit && <small> {one.unit}</small>}
                    </button>
                  </th>
                ))}
              </tr>
            </thead>
            <tbody
              onPointerEnter={(event) => setPointed(event.pointerType === "mouse")}
              onPointerLeave={() => setPointed(false)}
              onFocusIn={() => setFocused(true)}
              onFocusOut={() => setFocused(false)}
            >
              {shown.map((row) => (
                <Line
                  key={row.asset}
                  row={row}
                  spark={sparks[row.asset] ?? NO_SPARK}
                  first={row.asset === first}
                  onFocus={() => setCurrent(row.asset)}
                  onOpen={() => onOpen(row.asset)}
                />
              ))}
            </tbody>
          </table>
        </div>
      )}
      <p class="hint">
        As of {clock(board.ts)} UTC, each second. Keys: / search, ↑ ↓ move, Enter opens. Lines keep their places while you point at
        them or walk through them.
      </p>
    </section>
  );
}

const NO_SPARK: Maybe[] = [];

function groups(): [string, number][] {
  const out: [string, number][] = [];
  for (const { group = "" } of COLUMNS) {
    const last = out.at(-1);
    if (last?.[0].trim() === group) last[1]++;
    else out.push([group || " ".repeat(out.length), 1]); // unnamed groups differ, as keys must
  }
  return out;
}

function Line(props: { row: BoardRow; spark: Maybe[]; first: boolean; onFocus: () => void; onOpen: () => void }): JSX.Element {
  const { row } = props;
  const before = useRef<Maybe>(null);
  const moved = row.close !== null && before.current !== null ? Math.sign(row.close - before.current) : 0;
  useEffect(() => {
    before.current = row.close;
  }, [row.close]);
  return (
    <tr tabIndex={props.first ? 0 : -1} data-asset={row.asset} onFocus={props.onFocus} onClick={props.onOpen}>
      <th scope="row" class="k-asset">
        {row.asset}
        {row.quality !== null && row.quality < 0.8 && (
          <span class="bad" title={`Only ${number(row.quality * 100)} % of the venues' weight is complete`}>
            {" "}
            !
          </span>
        )}
      </th>
      <td class="k-close">
        {/* the last move's side, so that a price that changes is seen without a blink */}
        <span class={moved > 0 ? "good" : moved < 0 ? "bad" : ""}>{priceText(row.close)}</span>
      </td>
      <td class={`k-chg24h ${tone(row.chg24h_pct)}`}>{number(row.chg24h_pct, 2, true)}</td>
      {row.z_spot.map((z, index) => (
        <Heat key={WINDOWS[index]} id={`zspot-${WINDOWS[index]}`} z={z} />
      ))}
      {row.z_perp.map((z, index) => (
        <Heat key={WINDOWS[index]} id={`zperp-${WINDOWS[index]}`} z={z} />
      ))}
      {row.oi_chg_pct.map((change, index) => (
        <td key={WINDOWS[index]} class={`k-oi-${WINDOWS[index]}`} data-head={`OI ${WINDOWS[index]}`}>
          {number(change, 2, true)}
        </td>
      ))}
      <td class="k-funding" data-head="Fund">
        {number(row.funding_8h_bp, 2, true)}
      </td>
      <td class="k-basis" data-head="Basis">
        {number(row.basis_bp, 1, true)}
      </td>
      <td class="k-phase">
        <PhaseMark phase={row.phase} direction={row.direction} />
      </td>
      <td class="k-score">
        <span class={row.direction > 0 ? "good" : row.direction < 0 ? "bad" : ""}>
          {row.score === null ? "–" : number(Math.abs(row.score) * (row.direction || 1), 2, row.direction !== 0)}
        </span>
        <Spark values={props.spark} />
      </td>
      <td class="k-position">
        {row.position_usd ? (
          <>
            {compact(row.position_usd, true)} <small class={tone(row.pnl_usd)}>{usd(row.pnl_usd, true)}</small>
          </>
        ) : (
          <span class="none">{row.position_usd === null ? "–" : "flat"}</span>
        )}
      </td>
    </tr>
  );
}

const tone = (value: Maybe): string => (value === null || value === 0 ? "" : value > 0 ? "good" : "bad");

/** Five digits that count, whatever the price. */
export function priceText(value: Maybe): string {
  if (value === null || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  return number(value, size >= 10_000 ? 1 : size >= 100 ? 2 : size >= 1 ? 4 : size >= 0.01 ? 5 : 8);
}

export function PhaseMark(props: { phase: BoardRow["phase"]; direction: number }): JSX.Element {
  const { phase, direction } = props;
  if (phase === null) return <span class="none">–</span>;
  if (phase === "WARMING") return <span class="none" title="Fewer than 28 hours of rows were seen">warming</span>;
  const depth = phase === "RESET_B" ? 3 : phase === "RESET_A" ? 2 : phase === "IMBALANCED" ? 1 : 0;
  const side = direction > 0 ? "shorts trapped" : direction < 0 ? "longs trapped" : "nobody trapped";
  const name = direction > 0 ? "up" : direction < 0 ? "down" : "flat";
  return (
    <span class={`phase ${name}${depth}`} title={side}>
      {PHASE_WORDS[phase]}
      {depth > 0 && direction !== 0 && <span aria-label={side}>{direction > 0 ? " ▲" : " ▼"}</span>}
    </span>
  );
}

function Heat({ id, z }: { id: string; z: Maybe }): JSX.Element {
  const size = z === null ? 0 : Math.abs(z);
  const step = size < 0.5 ? 0 : size < 1 ? 1 : size < 2 ? 2 : size < 3 ? 3 : 4;
  return (
    <td class={`k-${id} z ${step ? `heat ${z! > 0 ? "up" : "down"}${step}` : ""}`} data-head={id.split("-")[1]}>
      {number(z, 1, true)}
    </td>
  );
}

const [SPARK_W, SPARK_H, SCORE_MOST] = [64, 18, 10];

/** The score of the last hour, signed by direction: above the middle shorts were trapped, below it longs. */
function Spark({ values }: { values: Maybe[] }): JSX.Element {
  const known = values.slice(-60);
  const x = (index: number): number => ((index + 60 - known.length) / 59) * SPARK_W;
  const bars = known.flatMap((value, index) => {
    if (value === null || value === 0) return [];
    const reach = (Math.min(SCORE_MOST, Math.abs(value)) / SCORE_MOST) * (SPARK_H / 2);
    return [
      <rect
        key={index}
        class={value > 0 ? "good" : "bad"}
        x={x(index) - 0.5}
        y={value > 0 ? SPARK_H / 2 - reach : SPARK_H / 2}
        width={1.1}
        height={Math.max(0.75, reach)}
      />,
    ];
  });
  return (
    <svg class="spark" width={SPARK_W} height={SPARK_H} viewBox={`-1 0 ${SPARK_W + 2} ${SPARK_H}`} aria-hidden="true">
      <line x1={0} x2={SPARK_W} y1={SPARK_H / 2} y2={SPARK_H / 2} />
      {bars}
    </svg>
  );
}

// What an asset's charts show: price with signals, fills and reset ranges, both CVDs, open interest, funding and basis, score.

import { candles, clipped, rule, shade, type ChartSpec, type Pen } from "../components/chart";
import { compact, number, percent } from "../components/format";
import { color } from "../components/theme";
import { drawScore, fine, PARTS } from "../report/market";
import { signOf, sideOf, type Decision, type Fill, type Instrument, type Signal } from "./types";

export interface Events {
  signals: Signal[];
  decisions: Decision[];
  fills: Fill[];
}

export interface Scene {
  asset: string;
  instrument: Instrument | null;
  events: Events;
  anchor: number | null;
  chosen: number | null; // s, the signal whose reasons are open
  entry: number; // points from which it enters
}

export function liveSpecs(scene: () => Scene, small: boolean, onPick: (ts: number) => void, onAnchor: (ts: number) => void): ChartSpec[] {
  const decimals = (): number => scene().instrument?.price_decimals ?? 2;
  const price = (value: number): string => number(value, Math.min(decimals(), value >= 1_000 ? 2 : 8));
  const base = scene().asset;
  const context = (pen: Pen): void => {
    const { anchor, chosen } = scene();
    if (anchor !== null) upright(pen, anchor, color("muted"));
    if (chosen !== null) upright(pen, chosen, color("ink"));
  };
  return [
    {
      id: "price",
      title: "Price",
      unit: scene().instrument?.quote ?? "",
      height: small ? 230 : 320,
      lines: [{ key: "close", label: "Price", color: "ink", width: 0, format: price }],
      extremes: ["low", "high"],
      keys: [
        { color: "up", text: "▲ signal: shorts trapped" },
        { color: "down", text: "▼ longs trapped" },
        { color: "ink", text: "◆ fill" },
        { color: "muted", text: "┄ reset range" },
      ],
      axis: (value, step) => number(value, Math.max(0, Math.min(decimals(), Math.ceil(-Math.log10(step))))),
      under: (pen) => {
        context(pen);
        drawPhases(pen);
      },
      over: (pen) =>
        clipped(pen, () => {
          candles(pen);
          drawResets(pen);
          drawSignals(pen, scene());
          drawFills(pen, scene());
        }),
      click: (ts, _x, _y, chart) => {
        const { from, to } = chart.linked.range;
        const near = ((to - from) / Math.max(1, chart.plot.over.clientWidth)) * 12;
        const { events } = scene();
        // Why something was filled is known to the second that decided it.
        const decided = new Map(events.decisions.map((one) => [one.order_id, one.ts]));
        const fills = events.fills.map((one) => ({ ts: one.ts, why: decided.get(one.order_id) ?? one.ts }));
        const others = [...events.signals, ...events.decisions.filter(isTold)].map(({ ts }) => ({ ts, why: ts }));
        const found = [...others, ...fills]
          .map((one) => ({ ts: one.why, away: Math.abs(one.ts + 0.5 - ts) }))
          .filter(({ away }) => away <= Math.max(near, 0.6))
          .sort((a, b) => a.away - b.away)
          .at(0);
        if (found) onPick(found.ts);
      },
    },
    {
      id: "cvd",
      title: "CVD",
      unit: "USD, perp right, spot left",
      height: small ? 160 : 180,
      rebased: true,
      origin: () => (scene().anchor === null ? undefined : 0),
      lines: [
        { key: "perp_cvd", label: "Perp CVD", color: "perp", format: (v) => compact(v, true) },
        { key: "spot_cvd", label: "Spot CVD", color: "spot", format: (v) => compact(v, true) },
      ],
      axis: (value) => compact(value, true),
      under: context,
      click: (ts) => onAnchor(Math.floor(ts)),
    },
    {
      id: "open_interest",
      title: "Open interest",
      unit: base,
      height: small ? 110 : 120,
      lines: [{ key: "open_interest", label: "OI", color: "interest", format: (v) => `${compact(v)} ${base}` }],
      axis: (value, step) => fine(value, step),
      under: context,
    },
    {
      id: "funding",
      title: "Funding and basis",
      unit: "basis points; funding over 8 h",
      height: small ? 100 : 110,
      lines: [
        { key: "basis_bps", label: "Basis", color: "run1", width: 1.25, format: (v) => `${number(v, 2, true)} bp` },
        { key: "funding_bps", label: "Funding 8 h", color: "run5", width: 1.75, format: (v) => `${number(v, 2, true)} bp` },
      ],
      axis: (value, step) => number(value, Math.max(0, Math.min(3, Math.ceil(-Math.log10(step) - 1e-9))), true),
      under: context,
    },
    {
      id: "score",
      title: "Score and its parts, signed by direction",
      unit: `points of 10, dashed: it enters from ${scene().entry}`,
      height: small ? 120 : 140,
      lines: [
        { key: "score", label: "Score", color: "ink", width: 0, format: (v) => number(v, 2, true) },
        ...PARTS.map((part) => ({ key: part.key, label: part.label, color: part.color, width: 0, format: (v: number) => number(v, 2) })),
      ],
      span: (low, high) => {
        const most = Math.max(5.2, Math.abs(low), Math.abs(high)) * 1.08;
        return [-most, most];
      },
      axis: (value) => number(value, 0, true),
      under: context,
      over: (pen) =>
        clipped(pen, () => {
          drawScore(pen);
          for (const level of [scene().entry, -scene().entry])
            rule(pen, level, pen.range.from, pen.range.to, color("muted"), [4, 4]);
        }),
      click: (ts) => onPick(Math.floor(ts)),
    },
  ];
}

export function equitySpecs(): ChartSpec[] {
  return [
    {
      id: "equity",
      title: "Equity",
      unit: "USD",
      height: 170,
      lines: [{ key: "equity", label: "Equity", color: "equity", width: 2, format: (v) => `${number(v, 2)} USD` }],
      axis: (value, step) => fine(value, step),
    },
    {
      id: "drawdown",
      title: "Drawdown from the highest equity",
      unit: "%",
      height: 100,
      lines: [{ key: "drawdown", label: "Drawdown", color: "down", width: 1.25, fill: "downfill", format: (v) => percent(v) }],
      span: (low) => [Math.min(low * 1.06, -0.001), 0],
      axis: (value, step) => number(value * 100, Math.max(0, Math.min(3, Math.ceil(-Math.log10(step * 100) - 1e-9)))),
    },
  ];
}

/** Records worth a mark of their own beside signals and fills. */
export const isTold = (one: Decision): boolean => ["entry", "exit", "denied", "block"].includes(one.kind);

function upright(pen: Pen, ts: number, stroke: string): void {
  if (ts < pen.range.from || ts > pen.range.to) return;
  const { ctx, ratio, box } = pen;
  ctx.save();
  ctx.strokeStyle = stroke;
  ctx.lineWidth = ratio;
  ctx.setLineDash([2 * ratio, 3 * ratio]);
  ctx.beginPath();
  ctx.moveTo(Math.round(pen.x(ts)) + 0.5, box.top);
  ctx.lineTo(Math.round(pen.x(ts)) + 0.5, box.top + box.height);
  ctx.stroke();
  ctx.restore();
}

/** Who was trapped, as each row ended: a ribbon at the foot and a tint over the whole height. */
function drawPhases(pen: Pen): void {
  const { frame } = pen;
  const { phase, direction } = frame.values;
  if (!phase || !direction) return;
  const ribbon = 6 * pen.ratio;
  let at = pen.first;
  while (at < pen.end) {
    const begin = at;
    const [depth, side] = [phase[at], direction[at]];
    while (at < pen.end && phase[at] === depth && direction[at] === side && (at === begin || !frame.holes[at])) at++;
    if (!(depth > 0)) continue;
    const name = side > 0 ? "up" : side < 0 ? "down" : "";
    const [from, to] = [frame.start[begin], frame.x[at - 1]];
    shade(pen, from, to, name ? color(`${name}band${depth}`) : color("hold"), pen.box.height - ribbon, ribbon);
    if (name) shade(pen, from, to, color(`${name}tint${depth}`));
  }
}

/** The reset's range, where rows know it. */
function drawResets(pen: Pen): void {
  const { frame } = pen;
  for (const name of ["reset_low", "reset_high"] as const) {
    const levels = frame.values[name];
    if (!levels) continue;
    let at = pen.first;
    while (at < pen.end) {
      const begin = at;
      const level = levels[at];
      while (at < pen.end && levels[at] === level) at++;
      if (Number.isNaN(level)) at = Math.max(at, begin + 1);
      else if (level > 0) rule(pen, level, frame.start[begin], frame.x[at - 1], color("muted"), [3, 3]);
    }
  }
}

function drawSignals(pen: Pen, { events, chosen }: Scene): void {
  const { ctx, ratio, box } = pen;
  for (const signal of events.signals) {
    if (signal.ts < pen.range.from || signal.ts > pen.range.to) continue;
    const side = signOf(signal.direction) || 1;
    const x = pen.x(signal.ts + 0.5);
    const size = (chosen === signal.ts ? 8 : 6) * ratio;
    const y = side > 0 ? box.top + box.height - 10 * ratio - size * 1.7 : box.top + 4 * ratio + size * 1.7;
    ctx.fillStyle = color(side > 0 ? "up" : "down");
    ctx.strokeStyle = color(chosen === signal.ts ? "ink" : "surface");
    ctx.lineWidth = 1.5 * ratio;
    ctx.beginPath();
    ctx.moveTo(x, y);
    ctx.lineTo(x - size, y + side * size * 1.7);
    ctx.lineTo(x + size, y + side * size * 1.7);
    ctx.closePath();
    ctx.stroke();
    ctx.fill();
  }
}

function drawFills(pen: Pen, { events, instrument }: Scene): void {
  const { ctx, ratio } = pen;
  const scale = 10 ** (instrument?.price_decimals ?? 0);
  for (const fill of events.fills) {
    if (fill.ts < pen.range.from || fill.ts > pen.range.to) continue;
    const [x, y, size] = [pen.x(fill.ts + 0.5), pen.y(fill.price / scale), 4.5 * ratio];
    ctx.beginPath();
    ctx.moveTo(x, y - size);
    ctx.lineTo(x + size, y);
    ctx.lineTo(x, y + size);
    ctx.lineTo(x - size, y);
    ctx.closePath();
    ctx.fillStyle = color("surface");
    ctx.strokeStyle = color(sideOf(fill.side) > 0 ? "up" : "down");
    ctx.lineWidth = 2 * ratio;
    ctx.fill();
    ctx.stroke();
  }
}

// What the report's charts show: one asset's market, and the run's equity, in one group linked in time.

import { candles, clipped, rule, shade, type ChartSpec, type Pen } from "../components/chart";
import { compact, number, percent, usd } from "../components/format";
import { firstFrom, mixedFrame, pointFrame, rowFrame, NO_FRAME, type Frame, type Source } from "../components/frames";
import type { Columns } from "../components/packs";
import type { Range } from "../components/linked";
import { color } from "../components/theme";
import type { AssetSeries, Band, RunPage, TradeLine } from "./document";

export const SECONDS_BELOW_S = 8 * 3_600; // closer than this, charts are drawn from seconds where there are some

/** Whole rows from afar, seconds from near; the seconds are unpacked when somebody first comes near. */
export class MarketSource implements Source {
  private coarse: Frame = NO_FRAME;
  private fine: Frame | null = null;
  private asked = false;

  constructor(
    private readonly base: Columns,
    step: number, // s
    private readonly readSeconds: () => Promise<Columns>,
    private readonly onFine: () => void,
  ) {
    this.coarse = rowFrame(base, step);
  }

  frame(range: Range): Frame {
    if (range.to - range.from > SECONDS_BELOW_S) return this.coarse;
    if (!this.asked) void this.load();
    return this.fine ?? this.coarse;
  }

  async load(): Promise<void> {
    if (this.asked) return;
    this.asked = true;
    const seconds = await this.readSeconds();
    this.fine = seconds.count ? mixedFrame(this.base, seconds) : this.coarse;
    this.onFine();
  }
}

export class StillSource implements Source {
  private readonly whole: Frame;
  constructor(columns: Columns) {
    this.whole = pointFrame(columns);
  }
  frame(): Frame {
    return this.whole;
  }
}

export interface Scene {
  run: RunPage;
  asset: AssetSeries;
  chosen: TradeLine | null;
}

export const PARTS = [
  { key: "reset_deceleration", label: "Reset", color: "part1" },
  { key: "absorption", label: "Absorption", color: "part2" },
  { key: "failed_breakdown", label: "Failed breaks", color: "part3" },
] as const;

export function marketSpecs(scene: () => Scene, pick: (trade: TradeLine) => void, small: boolean): ChartSpec[] {
  const { asset } = scene();
  const decimals = asset.price_decimals;
  const base = asset.asset;
  const price = (value: number): string => number(value, decimals);
  const context = (pen: Pen): void => {
    const { chosen } = scene();
    if (chosen) {
      shade(pen, chosen.entry_ts, chosen.exit_ts, color("held"));
    }
  };
  const trades = (): TradeLine[] => scene().run.trades.filter((trade) => trade.asset === asset.asset);
  return [
    {
      id: "price",
      title: `${asset.instrument} price`,
      unit: asset.base.columns.find((column) => column.name === "close")?.unit ?? "",
      height: small ? 260 : 340,
      lines: [{ key: "close", label: "Price", color: "ink", width: 0, format: price }],
      extremes: ["low", "high"],
      keys: [
        { color: "up", text: "▲ long" },
        { color: "down", text: "▼ short" },
        { color: "muted", text: "○ exit" },
        { color: "up", text: "▬ shorts trapped" },
        { color: "down", text: "▬ longs trapped" },
      ],
      axis: (value, step) => number(value, Math.max(0, Math.min(decimals, Math.ceil(-Math.log10(step))))),
      under: (pen) => {
        context(pen);
        drawBands(pen, scene().run.bands, asset.asset);
      },
      over: (pen) =>
        clipped(pen, () => {
          candles(pen);
          drawTrades(pen, trades(), scene().chosen);
        }),
      click: (ts, _x, _y, chart) => {
        const width = chart.linked.range.to - chart.linked.range.from;
        const near = (width / Math.max(1, chart.plot.over.clientWidth)) * 9;
        const distance = (trade: TradeLine): number =>
          ts >= trade.entry_ts && ts <= trade.exit_ts
            ? 0
            : Math.min(Math.abs(trade.entry_ts - ts), Math.abs(trade.exit_ts - ts));
        const found = trades()
          .map((trade) => ({ trade, away: distance(trade) }))
          .filter(({ away }) => away <= near)
          .sort((a, b) => a.away - b.away)
          .at(0);
        if (found) pick(found.trade);
      },
    },
    {
      id: "cvd",
      title: "CVD since the left edge",
      unit: "USD, perp right, spot left",
      height: small ? 170 : 190,
      rebased: true,
      lines: [
        { key: "perp_cvd", label: "Perp CVD", color: "perp", format: (v) => compact(v, true) },
        { key: "spot_cvd", label: "Spot CVD", color: "spot", format: (v) => compact(v, true) },
      ],
      axis: (value) => compact(value, true),
      under: context,
    },
    {
      id: "open_interest",
      title: "Open interest",
      unit: base,
      height: small ? 120 : 130,
      lines: [{ key: "open_interest", label: "OI", color: "interest", format: (v) => `${compact(v)} ${base}` }],
      axis: (value, step) => fine(value, step),
      under: context,
    },
    {
      id: "score",
      title: "Score and its parts, signed by direction",
      unit: scene().run.entry_score === null ? "points of 10" : `points of 10, dashed: it enters from ${scene().run.entry_score}`,
      height: small ? 130 : 150,
      lines: [
        { key: "score", label: "Score", color: "ink", width: 0, format: (v) => number(v, 2, true) },
        ...PARTS.map((part) => ({
          key: part.key,
          label: part.label,
          color: part.color,
          width: 0,
          format: (v: number) => number(v, 2),
        })),
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
          const { entry_score: enters } = scene().run;
          if (enters === null) return;
          for (const level of [enters, -enters])
            rule(pen, level, pen.range.from, pen.range.to, color("muted"), [4, 4]);
        }),
    },
  ];
}

export function equitySpecs(scene: () => Scene, small: boolean): ChartSpec[] {
  const context = (pen: Pen): void => {
    const { chosen } = scene();
    if (chosen) shade(pen, chosen.entry_ts, chosen.exit_ts, color("held"));
  };
  return [
    {
      id: "equity",
      title: "Equity, and buying and holding",
      unit: "USD",
      height: small ? 150 : 180,
      lines: [
        { key: "holding", label: "Hold", color: "hold", width: 1, dash: [5, 3], format: (v) => usd(v) },
        { key: "equity", label: "Equity", color: "equity", width: 2, format: (v) => usd(v) },
      ],
      axis: (value, step) => fine(value, step),
      under: context,
    },
    {
      id: "drawdown",
      title: "Drawdown from the highest equity",
      unit: "%",
      height: small ? 100 : 110,
      lines: [
        { key: "drawdown", label: "Drawdown", color: "down", width: 1.25, fill: "downfill", format: (v) => percent(v) },
      ],
      span: (low) => [Math.min(low * 1.06, -0.001), 0],
      axis: (value, step) => number(value * 100, Math.max(0, Math.min(3, Math.ceil(-Math.log10(step * 100) - 1e-9)))),
      under: context,
    },
  ];
}

/** Equity of several runs, each as growth of its own capital. */
export function overlaidSpec(runs: RunPage[], small: boolean): ChartSpec {
  return {
    id: "overlaid",
    title: "Equity, growth of each run's capital",
    unit: "%",
    height: small ? 220 : 300,
    lines: runs.map((run, index) => ({
      key: `run${index}`,
      label: run.name,
      color: `run${index % 6}`,
      width: 1.75,
      ...(index >= 6 ? { dash: [4, 3] } : {}),
      format: (v: number) => percent(v, 2, true),
    })),
    axis: (value, step) => number(value * 100, Math.max(0, Math.min(3, Math.ceil(-Math.log10(step * 100) - 1e-9))), true),
  };
}

/** Put the equities on all instants that any of them knows; each keeps its last value in between. */
export function overlaid(runs: RunPage[], equities: Columns[]): Columns {
  const ts = Float64Array.from([...new Set(equities.flatMap((one) => [...(one.values.ts ?? [])]))].sort((a, b) => a - b));
  const values: Record<string, Float64Array> = { ts };
  equities.forEach((one, index) => {
    const capital = runs[index].capital_usd;
    const from = one.values.ts ?? new Float64Array();
    const equity = one.values.equity ?? new Float64Array();
    let at = -1;
    values[`run${index}`] = ts.map((now) => {
      while (at + 1 < from.length && from[at + 1] <= now) at++;
      // Before a run began and after it ended it has no value.
      return at < 0 || (at === from.length - 1 && now > from[at]) ? NaN : equity[at] / capital - 1;
    });
  });
  return { count: ts.length, units: {}, values };
}

export function fine(value: number, step: number): string {
  const size = Math.abs(value);
  if (size < 1e6) return number(value, Math.max(0, Math.min(6, Math.ceil(-Math.log10(step) - 1e-9))));
  const [limit, letter] = size >= 1e9 ? [1e9, "B"] : [1e6, "M"];
  return `${number(value / limit, Math.max(0, Math.min(6, Math.ceil(-Math.log10(step / limit) - 1e-9))))} ${letter}`;
}

/** Who was trapped when: a ribbon at the foot; from near the whole height, with the reset's range. */
function drawBands(pen: Pen, bands: Band[], asset: string): void {
  const near = pen.range.to - pen.range.from < 2 * 86_400;
  const ribbon = 6 * pen.ratio;
  const first = firstFrom(
    bands.map((band) => band.end_s),
    pen.range.from - 86_400,
  );
  for (const band of bands.slice(Math.max(0, first - 8))) {
    if (band.asset !== asset || band.end_s < pen.range.from || band.start_s > pen.range.to) continue;
    const name = band.direction > 0 ? "up" : "down";
    const depth = band.phase === "RESET_B" ? 3 : band.phase === "RESET_A" ? 2 : 1;
    shade(pen, band.start_s, band.end_s, color(`${name}band${depth}`), pen.box.height - ribbon, ribbon);
    if (!near) continue;
    shade(pen, band.start_s, band.end_s, color(`${name}tint${depth}`));
    for (const value of [band.low, band.high])
      if (value !== null) rule(pen, value, band.start_s, band.end_s, color(`${name}band3`), [2, 3]);
  }
}

/** Entries are arrows in the trade's direction, exits are rings; a line joins them. */
function drawTrades(pen: Pen, trades: TradeLine[], chosen: TradeLine | null): void {
  const { ctx, ratio } = pen;
  const seen = trades.filter((trade) => trade.exit_ts >= pen.range.from && trade.entry_ts <= pen.range.to);
  const apart = pen.box.width / ratio / Math.max(1, seen.length); // px
  const usual = apart < 10 ? 3.5 : 5; // px; smaller where they stand close
  for (const trade of seen) {
    const isChosen = chosen?.number === trade.number;
    const tone = color(trade.direction > 0 ? "up" : "down");
    if (apart < 2.5 && !isChosen) {
      // So many that arrows would hide the price: a dot where each was entered.
      ctx.fillStyle = tone;
      ctx.fillRect(pen.x(trade.entry_ts) - ratio, pen.y(trade.entry_price) - ratio, 2 * ratio, 2 * ratio);
      continue;
    }
    const [x0, x1] = [pen.x(trade.entry_ts), pen.x(trade.exit_ts)];
    const [y0, y1] = [pen.y(trade.entry_price), pen.y(trade.exit_price)];
    ctx.lineWidth = (isChosen ? 2 : 1.25) * ratio;
    ctx.strokeStyle = color("ink");
    ctx.setLineDash([3 * ratio, 3 * ratio]);
    ctx.beginPath();
    ctx.moveTo(x0, y0);
    ctx.lineTo(x1, y1);
    ctx.stroke();
    ctx.setLineDash([]);
    const size = (isChosen ? 7 : usual) * ratio;
    const side = trade.direction > 0 ? 1 : -1;
    ctx.fillStyle = tone;
    ctx.strokeStyle = color("surface");
    ctx.lineWidth = 1.5 * ratio;
    ctx.beginPath();
    ctx.moveTo(x0, y0 + side * 2 * ratio);
    ctx.lineTo(x0 - size, y0 + side * (2 * ratio + size * 1.7));
    ctx.lineTo(x0 + size, y0 + side * (2 * ratio + size * 1.7));
    ctx.closePath();
    ctx.stroke();
    ctx.fill();
    ctx.beginPath();
    ctx.arc(x1, y1, size * 0.75, 0, 7);
    ctx.fillStyle = color("surface");
    ctx.fill();
    ctx.strokeStyle = tone;
    ctx.lineWidth = 2 * ratio;
    ctx.stroke();
    if (isChosen && trade.level !== null) rule(pen, trade.level, trade.entry_ts, trade.exit_ts, color("ink"), [6, 4]);
  }
}

/** Per column of pixels the row whose score is largest: its parts on one another, the whole as a line's end. */
export function drawScore(pen: Pen): void {
  const { ctx, frame, ratio } = pen;
  const score = frame.values.score;
  const parts = PARTS.map((part) => frame.values[part.key]).filter((part) => part !== undefined);
  if (!score || parts.length < PARTS.length) return;
  const zero = Math.round(pen.y(0));
  ctx.fillStyle = color("grid");
  ctx.fillRect(pen.box.left, zero, pen.box.width, Math.max(1, Math.round(ratio)));
  const paths = PARTS.map(() => new Path2D());
  const line = new Path2D();
  let i = Math.max(0, pen.first);
  while (i < pen.end) {
    const left = Math.floor(pen.x(frame.start[i]));
    let right = Math.max(left + 1, Math.round(pen.x(frame.x[i])));
    let most = i;
    while (i < pen.end && Math.floor(pen.x(frame.start[i])) <= left) {
      if (Math.abs(score[i]) > Math.abs(score[most])) most = i;
      right = Math.max(left + 1, Math.round(pen.x(frame.x[i])));
      i++;
    }
    if (score[most] === 0) continue;
    const sign = Math.sign(score[most]);
    let from = 0;
    parts.forEach((part, index) => {
      const to = Math.min(from + Math.abs(part[most]), 10);
      if (to > from) {
        const top = pen.y(sign * Math.max(from, to));
        const foot = pen.y(sign * Math.min(from, to));
        paths[index].rect(left, Math.min(top, foot), right - left, Math.abs(foot - top));
      }
      from = to;
    });
    line.rect(left, Math.round(pen.y(score[most]) - ratio / 2), right - left, Math.max(1, Math.round(1.5 * ratio)));
  }
  PARTS.forEach((part, index) => {
    ctx.fillStyle = color(part.color);
    ctx.fill(paths[index]);
  });
  ctx.fillStyle = color("ink");
  ctx.fill(line);
}

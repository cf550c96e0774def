// One chart of a linked group: uPlot draws lines and axes, the spec adds what is its own (candles, bands, markers).
//
// All charts of a group share gutters and a linear time axis, so a second stands at the same place in each of them.

import uPlot from "uplot";
import { clock, MONTHS } from "./format";
import { firstFrom, NO_FRAME, visible, type Frame, type Source } from "./frames";
import type { Linked, Range } from "./linked";
import { color, onTheme } from "./theme";

export interface Line {
  key: string; // the frame's column
  label: string;
  color: string; // a colour of the theme
  format: (value: number) => string;
  scale?: string;
  width?: number; // px; 0: drawn by the spec's own hand
  fill?: string;
  dash?: number[];
}

/** What a spec's own hand draws with; lengths in canvas pixels. */
export interface Pen {
  ctx: CanvasRenderingContext2D;
  frame: Frame;
  range: Range;
  first: number;
  end: number;
  ratio: number;
  box: { left: number; top: number; width: number; height: number };
  x: (ts: number) => number;
  y: (value: number) => number;
}

export interface ChartSpec {
  id: string;
  title: string;
  unit: string;
  height: number; // px
  lines: Line[];
  axis: (value: number, step: number) => string;
  keys?: { color: string; text: string }[]; // instead of the lines' names in the caption
  /** The span of values to show, from the extremes of what is visible; without it 6 % of room is added on both sides. */
  span?: (low: number, high: number) => [number, number];
  /** Each line is shifted so that all begin with zero at the left edge, and has a scale of its own: only changes have a meaning. */
  rebased?: boolean;
  /** Where rebased lines are zero instead: a value of theirs, the same for all; undefined leaves it at the left edge. */
  origin?: () => number | undefined;
  extremes?: [string, string]; // columns of lowest and highest values, where these are not the lines'
  under?: (pen: Pen) => void;
  over?: (pen: Pen) => void;
  /** Somebody clicked at a time and a height (both in px of the plot, and the time in s). */
  click?: (ts: number, x: number, y: number, chart: Chart) => void;
}

// eslint-disable-next-line @typescript-eslint/no-unsafe-enum-assignment -- uPlot only declares its enum, there is none at run time
const RIGHT: uPlot.Axis.Side = 1;
const GUTTER_PX = 62;
const TIME_PX = 20;
const STEPS_S = [
  1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200, 86_400, 172_800, 432_000,
  604_800, 1_209_600, 2_592_000,
];

export class Chart {
  readonly plot: uPlot;
  frame: Frame = NO_FRAME;
  drawings = { times: 0, longest: 0 }; // ms
  private alike = false;
  private readonly upright = document.createElement("div");
  private readonly level = document.createElement("div");
  private readonly tag = document.createElement("output");
  private readonly undo: (() => void)[] = [];
  private readonly pointers = new Map<number, { x: number; y: number }>();
  private moved = 0;
  private spanOf = new Map<string, [number, number]>();
  private origins = new Map<string, number>();

  constructor(
    readonly spec: ChartSpec,
    readonly linked: Linked,
    private source: Source,
    readonly host: HTMLElement,
  ) {
    this.plot = new uPlot(this.options(), this.columns(), host);
    this.upright.className = "upright";
    this.level.className = "crosslevel";
    this.tag.className = "tag";
    this.tag.setAttribute("aria-hidden", "true");
    this.plot.over.append(this.upright, this.level);
    this.plot.root.append(this.tag);
    this.listen();
    this.redraw();
  }

  destroy(): void {
    for (const undo of this.undo) undo();
    this.plot.destroy();
  }

  setSource(source: Source): void {
    this.source = source;
    this.redraw();
  }

  /** How many rows are drawn now. */
  get drawn(): number {
    const [first, end] = visible(this.frame, this.linked.range);
    return end - first;
  }

  redraw(): void {
    const began = performance.now();
    const range = this.linked.range;
    const frame = this.source.frame(range);
    this.measure(frame, range);
    this.plot.batch(() => {
      if (frame !== this.frame) {
        this.frame = frame;
        this.plot.setData(this.columns(), false);
      }
      this.plot.setScale("x", { min: range.from, max: range.to });
    });
    this.showCursor();
    this.drawings.times++;
    this.drawings.longest = Math.max(this.drawings.longest, performance.now() - began);
  }

  /** Give rebased lines one scale, or each its own. */
  measureAlike(alike: boolean): void {
    this.alike = alike;
    this.redraw();
    this.plot.redraw();
  }

  /** Draw the same again: other colours, other things of the spec's own hand. */
  repaint(): void {
    this.plot.redraw(false, true);
  }

  private columns(): uPlot.AlignedData {
    const { x, values } = this.frame;
    const column = (key: string): (number | null)[] | Float64Array => {
      const found = values[key] ?? new Float64Array(x.length);
      return found.some(Number.isNaN) ? Array.from(found, (one) => (Number.isNaN(one) ? null : one)) : found;
    };
    return [x, ...this.spec.lines.map((line) => column(line.key))] as uPlot.AlignedData;
  }

  /** Find each scale's span before uPlot asks for it. */
  private measure(frame: Frame, range: Range): void {
    const [first, end] = visible(frame, range);
    const extremes = new Map<string, [number, number]>();
    this.origins = new Map();
    for (const line of this.spec.lines) {
      const scale = this.scaleOf(line);
      const [lowKey, highKey] = this.spec.extremes ?? [line.key, line.key];
      const low = frame.values[lowKey];
      const high = frame.values[highKey];
      if (!low || !high) continue;
      let [least, most] = extremes.get(scale) ?? [Infinity, -Infinity];
      for (let i = Math.max(0, first - 1); i < Math.min(end + 1, low.length); i++) {
        if (low[i] < least) least = low[i];
        if (high[i] > most) most = high[i];
      }
      extremes.set(scale, [least, most]);
      if (this.spec.rebased && first < low.length) this.origins.set(scale, this.spec.origin?.() ?? low[first]);
    }
    this.spanOf = new Map();
    for (const [scale, [least, most]] of extremes) this.spanOf.set(scale, this.roomy(least, most));
    if (this.spec.rebased) {
      // Zero at one height for all: the widest reach below and above it, in measures of each line's own reach.
      const reach = new Map<string, number>();
      for (const [scale, [least, most]] of extremes) {
        const origin = this.origins.get(scale) ?? 0;
        reach.set(scale, Math.max(origin - least, most - origin, 1e-9));
      }
      const widest = Math.max(...reach.values());
      let below = 0;
      let above = 0;
      for (const [scale, [least, most]] of extremes) {
        const origin = this.origins.get(scale) ?? 0;
        if (this.alike) reach.set(scale, widest);
        below = Math.max(below, (origin - least) / reach.get(scale)!);
        above = Math.max(above, (most - origin) / reach.get(scale)!);
      }
      for (const [scale, one] of reach) {
        const origin = this.origins.get(scale) ?? 0;
        this.spanOf.set(scale, this.roomy(origin - below * one, origin + above * one));
      }
    }
  }

  private roomy(least: number, most: number): [number, number] {
    if (!(most >= least)) return [0, 1];
    if (this.spec.span) return this.spec.span(least, most);
    const room = (most - least || Math.abs(most) * 0.001 || 1) * 0.06;
    return [least - room, most + room];
  }

  private scaleOf(line: Line): string {
    return this.spec.rebased ? line.key : (line.scale ?? "y");
  }

  private options(): uPlot.Options {
    const { spec } = this;
    const main = this.scaleOf(spec.lines[0]);
    const scales: uPlot.Scales = { x: { time: false, auto: false } };
    for (const line of spec.lines) {
      const scale = this.scaleOf(line);
      scales[scale] = { range: () => this.spanOf.get(scale) ?? [0, 1] };
    }
    const axis = {
      stroke: () => color("muted"),
      font: `11px ${color("font") || "sans-serif"}`,
      grid: { stroke: () => color("grid"), width: 1 },
      ticks: { show: false },
    };
    return {
      width: Math.max(200, this.host.clientWidth),
      height: spec.height,
      pxAlign: 1,
      padding: [6, 0, 0, 2],
      legend: { show: false },
      cursor: { show: false },
      scales,
      axes: [
        {
          ...axis,
          size: TIME_PX,
          gap: 3,
          space: 62,
          incrs: STEPS_S,
          splits: (u, _axis, low, high, step) =>
            // a label at the very edge would be cut
            stepsOf(low + ((18 * uPlot.pxRatio) / Math.max(200, u.bbox.width)) * (high - low), high, step),
          values: (_u, splits, _axis, _space, step) => splits.map((ts) => timeLabel(ts, step)),
        },
        {
          ...axis,
          scale: main,
          ...(spec.rebased ? { stroke: () => color(this.alike ? "muted" : spec.lines[0].color) } : {}),
          side: RIGHT,
          size: GUTTER_PX,
          gap: 6,
          splits: (_u, _axis, low, high) => this.levels(main, low, high),
          values: (_u, splits) => {
            const origin = this.origins.get(main) ?? 0;
            const step = splits.length > 1 ? splits[1] - splits[0] : 1;
            return splits.map((value) => spec.axis(value - origin, step));
          },
        },
      ],
      series: [
        {},
        ...spec.lines.map(
          (line): uPlot.Series => ({
            label: line.label,
            scale: this.scaleOf(line),
            stroke: () => color(line.color),
            width: line.width ?? 1.5,
            points: { show: false },
            ...(line.fill === undefined ? {} : { fill: () => color(line.fill ?? line.color), fillTo: 0 }),
            ...(line.dash === undefined ? {} : { dash: line.dash }),
            ...(line.width === 0 ? { paths: () => null } : {}),
            gaps: (u, _series, first, last) => this.gaps(u, first, last),
          }),
        ),
      ],
      hooks: {
        drawAxes: [() => spec.under?.(this.pen())],
        draw: [
          () => {
            spec.over?.(this.pen());
            if (spec.rebased && !this.alike) this.innerLevels();
          },
        ],
      },
    };
  }

  /** About one level every 34 px, at 1, 2 or 5 times a power of ten from the origin. */
  private levels(scale: string, low: number, high: number, apart = 34): number[] {
    const origin = this.origins.get(scale) ?? 0;
    const least = ((high - low) / Math.max(1, this.spec.height - TIME_PX - 6)) * apart;
    const power = 10 ** Math.floor(Math.log10(least));
    const step = power * ([1, 2, 5, 10].find((n) => n * power >= least) ?? 10);
    const out: number[] = [];
    for (let n = Math.ceil((low - origin) / step); n * step + origin <= high; n++) out.push(n * step + origin);
    return out;
  }

  /** The second line's own levels, inside at the left. */
  private innerLevels(): void {
    const line = this.spec.lines[1];
    const scale = this.scaleOf(line);
    const [low, high] = this.spanOf.get(scale) ?? [0, 1];
    const { ctx, bbox } = this.plot;
    const origin = this.origins.get(scale) ?? 0;
    ctx.save();
    ctx.font = `${11 * uPlot.pxRatio}px ${color("font") || "sans-serif"}`;
    ctx.textBaseline = "middle";
    ctx.textAlign = "left";
    ctx.lineWidth = 3 * uPlot.pxRatio;
    ctx.strokeStyle = color("surface");
    ctx.fillStyle = color(line.color);
    for (const level of this.levels(scale, low, high, 26)) {
      const y = bbox.top + bbox.height - ((level - low) / (high - low)) * bbox.height;
      if (y < bbox.top + 6 || y > bbox.top + bbox.height - 6 || level === origin) continue;
      const text = this.spec.axis(level - origin, 1);
      ctx.strokeText(text, bbox.left + 4 * uPlot.pxRatio, y);
      ctx.fillText(text, bbox.left + 4 * uPlot.pxRatio, y);
    }
    ctx.restore();
  }

  private gaps(u: uPlot, first: number, last: number): [number, number][] {
    const { holes, x, start } = this.frame;
    const out: [number, number][] = [];
    for (let i = Math.max(1, first); i <= last; i++) {
      if (holes[i]) out.push([u.valToPos(x[i - 1], "x", true), u.valToPos(start[i], "x", true)]);
    }
    return out;
  }

  private pen(): Pen {
    const { plot, linked } = this;
    const [first, end] = visible(this.frame, linked.range);
    const { left, top, width, height } = plot.bbox;
    const { from, to } = linked.range;
    const main = this.scaleOf(this.spec.lines[0]);
    const [low, high] = this.spanOf.get(main) ?? [0, 1];
    return {
      ctx: plot.ctx,
      frame: this.frame,
      range: linked.range,
      first,
      end,
      ratio: uPlot.pxRatio,
      box: { left, top, width, height },
      x: (ts) => left + ((ts - from) / (to - from)) * width,
      y: (value) => top + height - ((value - low) / (high - low)) * height,
    };
  }

  private listen(): void {
    const { over } = this.plot;
    const listen = <K extends keyof HTMLElementEventMap>(
      name: K,
      heard: (event: HTMLElementEventMap[K]) => void,
      options?: AddEventListenerOptions,
    ): void => {
      over.addEventListener(name, heard, options);
      this.undo.push(() => over.removeEventListener(name, heard, options));
    };
    listen("pointerdown", (event) => {
      if (event.button !== 0) return;
      over.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
      if (this.pointers.size === 1) this.moved = 0;
    });
    listen("pointermove", (event) => {
      this.dragged(event);
      const box = over.getBoundingClientRect();
      if (event.pointerType !== "touch" || this.pointers.size < 2) this.point(event.clientX - box.left);
      this.levelAt(event.clientY - box.top);
    });
    const release = (event: PointerEvent): void => {
      const isClick = this.pointers.size === 1 && this.pointers.delete(event.pointerId) && this.moved < 5;
      this.pointers.delete(event.pointerId);
      if (!isClick || event.type !== "pointerup") return;
      const box = over.getBoundingClientRect();
      const x = event.clientX - box.left;
      this.point(x);
      this.spec.click?.(this.timeAt(x), x, event.clientY - box.top, this);
    };
    listen("pointerup", release);
    listen("pointercancel", release);
    listen("pointerleave", () => {
      if (this.pointers.size) return;
      this.linked.point(null);
      this.level.style.display = this.tag.style.display = "none";
    });
    listen("dblclick", () => this.linked.moveTo(this.linked.whole.from, this.linked.whole.to));
    listen(
      "wheel",
      (event) => {
        const sideways = Math.abs(event.deltaX) > Math.abs(event.deltaY);
        // A page is scrolled by the wheel until somebody turns to the charts: then, or with Ctrl, it zooms.
        const wanted = event.ctrlKey || event.metaKey || this.host.closest(".charts")?.contains(document.activeElement);
        if (!wanted && !sideways) return;
        event.preventDefault();
        const box = over.getBoundingClientRect();
        if (sideways) this.linked.pan(event.deltaX / box.width);
        else
          this.linked.zoom(
            Math.exp(Math.max(-120, Math.min(120, event.deltaY)) * (event.ctrlKey ? 0.01 : 0.0022)),
            this.timeAt(event.clientX - box.left),
          );
      },
      { passive: false },
    );
    const resized = new ResizeObserver(() => {
      const width = this.host.clientWidth;
      if (width > 0 && width !== this.plot.width) this.plot.setSize({ width, height: this.spec.height });
      this.showCursor();
    });
    resized.observe(this.host);
    this.undo.push(
      () => resized.disconnect(),
      onTheme(() => this.repaint()),
      this.linked.on((change) => {
        if (change === "cursor") this.showCursor();
        else this.redraw();
      }),
    );
  }

  private dragged(event: PointerEvent): void {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const now = { x: event.clientX, y: event.clientY };
    const width = this.plot.over.clientWidth;
    const others = [...this.pointers].filter(([id]) => id !== event.pointerId);
    this.pointers.set(event.pointerId, now);
    this.moved += Math.abs(now.x - before.x) + Math.abs(now.y - before.y);
    if (others.length === 0) {
      if (this.moved >= 5) this.linked.pan((before.x - now.x) / width);
      return;
    }
    const other = others[0][1];
    const apart = Math.max(16, Math.abs(before.x - other.x));
    const box = this.plot.over.getBoundingClientRect();
    this.linked.zoom(apart / Math.max(16, Math.abs(now.x - other.x)), this.timeAt((now.x + other.x) / 2 - box.left));
  }

  private timeAt(x: number): number {
    const { from, to } = this.linked.range;
    return from + (x / Math.max(1, this.plot.over.clientWidth)) * (to - from);
  }

  private point(x: number): void {
    this.linked.point(Math.min(this.linked.whole.to, Math.max(this.linked.whole.from, this.timeAt(x))));
  }

  private showCursor(): void {
    const { cursor, range } = this.linked;
    const shown = cursor !== null && cursor >= range.from && cursor <= range.to;
    this.upright.style.display = shown ? "block" : "none";
    if (!shown) {
      this.level.style.display = this.tag.style.display = "none";
      return;
    }
    const share = (cursor - range.from) / (range.to - range.from);
    this.upright.style.transform = `translateX(${Math.round(share * this.plot.over.clientWidth)}px)`;
    if (!this.plot.over.matches(":hover")) this.level.style.display = this.tag.style.display = "none";
  }

  private levelAt(y: number): void {
    const height = this.plot.over.clientHeight;
    if (y < 0 || y > height) return;
    const main = this.scaleOf(this.spec.lines[0]);
    const [low, high] = this.spanOf.get(main) ?? [0, 1];
    const value = high - (y / height) * (high - low) - (this.origins.get(main) ?? 0);
    this.level.style.display = this.tag.style.display = "block";
    this.level.style.transform = `translateY(${Math.round(y)}px)`;
    this.tag.textContent = this.spec.axis(value, (high - low) / 200);
    this.tag.style.transform = `translateY(${Math.round(y + this.plot.over.offsetTop)}px) translateY(-50%)`;
  }
}

/** Whole multiples of a step; all steps divide a day or are days, and UTC days begin at multiples of 86,400. */
function stepsOf(low: number, high: number, step: number): number[] {
  const out: number[] = [];
  for (let ts = Math.ceil(low / step) * step; ts <= high; ts += step) out.push(ts);
  return out;
}

function timeLabel(ts: number, step: number): string {
  if (ts % 86_400 === 0) {
    const date = new Date(ts * 1_000);
    return `${date.getUTCDate()} ${MONTHS[date.getUTCMonth()]}`;
  }
  return clock(ts, step < 60);
}

// What several charts draw by hand.

/** Candles, joined until each is wide enough to be seen; rows that are wider than the step keep their width. */
export function candles(pen: Pen): void {
  const { frame, ctx, ratio } = pen;
  const { open, high, low, close } = frame.values;
  if (!open || !high || !low || !close) return;
  const perPixel = (pen.range.to - pen.range.from) / pen.box.width;
  const step = CANDLES_S.find((s) => s >= 3.2 * ratio * perPixel) ?? 86_400;
  const up = new Path2D();
  const down = new Path2D();
  let i = Math.max(0, firstFrom(frame.start, Math.floor(pen.range.from / step) * step));
  while (i < frame.start.length && frame.start[i] < pen.range.to) {
    const begin = i;
    const width = Math.max(step, frame.x[i] - frame.start[i]);
    const left = width > step ? frame.start[i] : Math.floor(frame.start[i] / step) * step;
    let least = Infinity;
    let most = -Infinity;
    while (i < frame.start.length && (i === begin || (frame.start[i] < left + step && frame.x[i] <= left + width))) {
      if (low[i] < least) least = low[i];
      if (high[i] > most) most = high[i];
      i++;
    }
    const first = open[begin];
    const last = close[i - 1];
    const path = last >= first ? up : down;
    const from = pen.x(left);
    const to = pen.x(left + width);
    const thick = Math.max(1, Math.round((to - from) * 0.72));
    const body = Math.round(from + (to - from - thick) / 2);
    const wick = Math.max(1, Math.round(Math.min(ratio, thick / 3)));
    const top = Math.round(pen.y(Math.max(first, last)));
    const height = Math.max(1, Math.round(pen.y(Math.min(first, last))) - top);
    const tip = Math.round(pen.y(most));
    path.rect(body, top, thick, height);
    path.rect(body + (thick - wick) / 2, tip, wick, Math.max(1, Math.round(pen.y(least)) - tip));
  }
  ctx.fillStyle = color("up");
  ctx.fill(up);
  ctx.fillStyle = color("down");
  ctx.fill(down);
}

export const CANDLES_S = [1, 5, 15, 60, 300, 900, 1_800, 3_600, 7_200, 14_400, 43_200, 86_400];

export function shade(pen: Pen, from: number, to: number, fill: string, top = 0, height = pen.box.height): void {
  const left = Math.max(pen.box.left, pen.x(from));
  const right = Math.min(pen.box.left + pen.box.width, pen.x(to));
  if (right < left) return;
  pen.ctx.fillStyle = fill;
  pen.ctx.fillRect(left, pen.box.top + top, Math.max(1, right - left), height);
}

/** A dashed level across a span of time. */
export function rule(pen: Pen, value: number, from: number, to: number, stroke: string, dash: number[] = [4, 4]): void {
  const y = Math.round(pen.y(value)) + 0.5;
  if (y < pen.box.top || y > pen.box.top + pen.box.height) return;
  const { ctx } = pen;
  ctx.save();
  ctx.strokeStyle = stroke;
  ctx.lineWidth = pen.ratio;
  ctx.setLineDash(dash.map((n) => n * pen.ratio));
  ctx.beginPath();
  ctx.moveTo(Math.max(pen.box.left, pen.x(from)), y);
  ctx.lineTo(Math.min(pen.box.left + pen.box.width, pen.x(to)), y);
  ctx.stroke();
  ctx.restore();
}

/** Draw within the plot only. */
export function clipped(pen: Pen, draw: () => void): void {
  pen.ctx.save();
  pen.ctx.beginPath();
  pen.ctx.rect(pen.box.left, pen.box.top, pen.box.width, pen.box.height);
  pen.ctx.clip();
  draw();
  pen.ctx.restore();
}

// One asset's rows as the charts ask for them: blocks of /series in the resolution the screen needs, and at their end the
// seconds of the stream, joined to the same step. What was loaded once is kept.

import { NO_FRAME, rowFrame, type Frame, type Source } from "../components/frames";
import type { Range } from "../components/linked";
import { phaseOf, PHASES, signOf, type Row } from "./types";

export const STEPS_S = [1, 5, 10, 30, 60, 300, 900, 3_600, 14_400, 86_400] as const;
const BLOCK_ROWS = 800; // of 5 min each less than the three days whose scores the server scans
const SECONDS_KEPT = 4 * 3_600;
const BLOCKS_KEPT = 60;
const WAIT_MS = 60;
const ASKED_AGAIN_MS = 4_000;

const SUMS = ["spot_delta", "perp_delta", "spot_volume", "perp_volume"] as const;
const LASTS = ["close", "open_interest", "funding_rate_8h", "basis_bps", "quality", "phase", "reset_low", "reset_high"] as const;
const PARTS = ["reset_deceleration", "absorption", "failed_breakdown"] as const;
const NAMES = ["open", "high", "low", ...LASTS, ...SUMS, "score", "direction", ...PARTS] as const;
type Name = (typeof NAMES)[number];
type Line = Record<Name, number> & { ts: number };

export type Series = { ts: number[] } & Partial<Record<string, unknown[]>>;
export type Load = (from: number, to: number, step: number) => Promise<Series>;

interface Block {
  step: number;
  index: number;
  lines: Line[];
  to: number; // s, what was asked for ends here
}

const known = (value: unknown): number => (typeof value === "number" ? value : NaN);

/** A second as numbers; what is not known is NaN. */
export function lineOf(row: Row): Line {
  const line = { ts: row.ts } as Line;
  for (const name of NAMES) line[name] = known(row[name]);
  const phase = phaseOf(row.phase);
  line.phase = phase === null ? NaN : PHASES.indexOf(phase);
  line.direction = signOf(row.direction);
  for (const part of PARTS) line[part] = known(row.parts?.[part]);
  line.score = Math.abs(line.score) * (line.direction || Math.sign(line.score) || 1);
  return line;
}

function linesOf(series: Series): Line[] {
  return series.ts.map((ts, index) => {
    const row: Row = { ts } as Row;
    for (const [name, column] of Object.entries(series)) if (name !== "ts" && Array.isArray(column)) row[name] = column[index];
    if (row.parts === undefined) row.parts = Object.fromEntries(PARTS.map((part) => [part, known(row[part])]));
    const line = lineOf(row);
    // Series sign the score by its direction.
    if (row.direction === undefined && typeof row.score === "number") {
      line.score = row.score;
      line.direction = Math.sign(row.score);
    }
    return line;
  });
}

/** Add a later second to the row it belongs to. */
function join(into: Line, second: Line): void {
  if (!(into.high >= second.high)) into.high = second.high;
  if (!(into.low <= second.low)) into.low = second.low;
  if (Number.isNaN(into.open)) into.open = second.open;
  for (const name of LASTS) if (!Number.isNaN(second[name])) into[name] = second[name];
  for (const name of SUMS) if (!Number.isNaN(second[name])) into[name] = (Number.isNaN(into[name]) ? 0 : into[name]) + second[name];
  if (!(Math.abs(into.score) > Math.abs(second.score))) {
    into.score = second.score;
    into.direction = second.direction;
    for (const part of PARTS) into[part] = second[part];
  }
}

/** Cut a span into runs of equal steps, [from, to, step]: coarse within, fine at both ends, nothing beyond them. */
export function cuts(from: number, to: number): [number, number, number][] {
  const out: [number, number, number][] = [];
  let at = from;
  while (at < to) {
    const step = [...STEPS_S].reverse().find((one) => at % one === 0 && at + one <= to) ?? 1;
    const last = out.at(-1);
    if (last?.[2] === step) last[1] += step;
    else out.push([at, at + step, step]);
    at += step;
  }
  return out;
}

const dayOf = (ts: number): number => Math.floor(ts / 86_400) * 86_400;

export class LiveSource implements Source {
  /** The step that was chosen by hand, s; 0: as fine as the screen can show. */
  chosen = 0;
  width = 800; // px of the charts
  anchor: number | null = null; // s: where both CVDs are zero; null: at the left edge
  error: unknown = null;
  private readonly blocks = new Map<string, Block>();
  private readonly streamed: Line[] = [];
  private readonly rows = new Map<number, Row>();
  private readonly asking = new Set<string>();
  private readonly refused = new Map<string, number>(); // when, ms
  private readonly parts = new Map<string, Line[]>();
  private wanted: { step: number; index: number }[] = [];
  private timer = 0;
  private version = 0;
  private built: { key: string; frame: Frame } = { key: "", frame: NO_FRAME };
  private closed = false;

  constructor(
    private readonly load: Load,
    private readonly changed: () => void,
  ) {}

  close(): void {
    this.closed = true;
    clearTimeout(this.timer);
  }

  get loading(): boolean {
    return this.asking.size > 0;
  }

  /** The newest row; of the stream, or null. */
  get newest(): Row | null {
    const last = this.streamed.at(-1);
    return last ? (this.rows.get(last.ts) ?? null) : null;
  }

  row(ts: number): Row | null {
    return this.rows.get(ts) ?? null;
  }

  remember(row: Row): void {
    this.rows.set(row.ts, row);
    if (this.rows.size > 2 * SECONDS_KEPT) for (const ts of [...this.rows.keys()].slice(0, SECONDS_KEPT)) this.rows.delete(ts);
  }

  /** A second came by the stream. */
  take(row: Row): void {
    this.streamed.push(lineOf(row));
    this.remember(row);
    if (this.streamed.length > SECONDS_KEPT + 600) this.streamed.splice(0, 600);
    this.version++;
  }

  /** The stream will not tell some seconds: what lies before its next one is loaded. */
  skip(): void {
    this.streamed.length = 0;
    this.version++;
  }

  step(range: Range): number {
    const span = range.to - range.from;
    const most = this.chosen ? 4_000 : Math.min(2_000, Math.max(240, this.width));
    return STEPS_S.find((step) => step >= this.chosen && span / step <= most) ?? 86_400;
  }

  frame(range: Range): Frame {
    const step = this.step(range);
    const length = step * BLOCK_ROWS;
    const first = Math.floor(range.from / length);
    const last = Math.max(first, Math.ceil(range.to / length) - 1);
    this.wanted = [];
    for (let index = last; index >= first - 1; index--) this.wanted.push({ step, index });
    this.soon();
    const key = `${step} ${first} ${last} ${this.version} ${this.anchor}`;
    if (key === this.built.key) return this.built.frame;
    const lines = this.lines(step, first, last);
    // Until something of it is here, what was drawn before stays.
    if (lines.length === 0 && this.asking.size + this.wanted.filter((one) => this.missing(one)).length > 0) return this.built.frame;
    this.built = { key, frame: this.framed(lines, step) };
    return this.built.frame;
  }

  /** Rows of some blocks: as they were loaded, then the begun row that the stream goes on with, then the stream's seconds. */
  private lines(step: number, first: number, last: number): Line[] {
    const streamFrom = this.streamed.at(0)?.ts ?? Infinity;
    const border = Number.isFinite(streamFrom) ? Math.floor(streamFrom / step) * step : Infinity;
    const [begin, end] = [first * step * BLOCK_ROWS, (last + 1) * step * BLOCK_ROWS];
    const out: Line[] = [];
    for (let index = first; index <= last; index++)
      for (const line of this.blocks.get(`${step}:${index}`)?.lines ?? []) if (line.ts < border) out.push(line);
    const add = (part: Line): void => {
      const ts = Math.floor(part.ts / step) * step;
      if (ts < begin || ts >= end) return;
      const into = out.at(-1);
      if (into?.ts === ts) join(into, part);
      else out.push({ ...part, ts });
    };
    if (border < streamFrom && begin < streamFrom && end > border)
      for (const part of this.pieces(dayOf(streamFrom), streamFrom)) if (part.ts >= border) add(part);
    this.streamed.forEach(add);
    return out;
  }

  private framed(lines: Line[], step: number): Frame {
    const count = lines.length;
    const values: Record<string, Float64Array> = { ts: new Float64Array(count), width: new Float64Array(count).fill(step) };
    for (const name of NAMES) values[name] = new Float64Array(count);
    const [spot, perp] = [new Float64Array(count), new Float64Array(count)];
    let [spotSum, perpSum] = [0, 0];
    lines.forEach((line, index) => {
      values.ts[index] = line.ts;
      for (const name of NAMES) values[name][index] = line[name];
      if (!Number.isNaN(line.spot_delta)) spotSum += line.spot_delta;
      if (!Number.isNaN(line.perp_delta)) perpSum += line.perp_delta;
      spot[index] = spotSum;
      perp[index] = perpSum;
    });
    if (this.anchor !== null && count) {
      const [spotAt, perpAt] = this.anchored(lines, spot, perp, step, this.anchor);
      for (let index = 0; index < count; index++) {
        spot[index] -= spotAt;
        perp[index] -= perpAt;
      }
    }
    const funding = values.funding_rate_8h.map((rate) => rate * 1e4);
    return rowFrame({ count, units: {}, values: { ...values, funding_bps: funding, spot_cvd: spot, perp_cvd: perp } }, step);
  }

  /** What both sums are at the anchor; of the time between it and these rows the server tells the sums. */
  private anchored(lines: Line[], spot: Float64Array, perp: Float64Array, step: number, anchor: number): [number, number] {
    const from = lines[0].ts;
    if (anchor >= from) {
      let at = -1;
      while (at + 1 < lines.length && lines[at + 1].ts + step <= anchor) at++;
      return at < 0 ? [0, 0] : [spot[at], perp[at]];
    }
    let [spotSum, perpSum] = [0, 0];
    for (const part of this.pieces(anchor, from)) {
      if (!Number.isNaN(part.spot_delta)) spotSum -= part.spot_delta;
      if (!Number.isNaN(part.perp_delta)) perpSum -= part.perp_delta;
    }
    return [spotSum, perpSum];
  }

  /** A span in few rows, of steps that fit into it exactly; nothing until they are here. */
  private pieces(from: number, to: number): Line[] {
    const key = `${from}-${to}`;
    const found = this.parts.get(key);
    if (found) return found;
    const refused = this.refused.get(key);
    if (!this.asking.has(key) && !this.closed && !(refused !== undefined && performance.now() - refused < ASKED_AGAIN_MS)) {
      this.asking.add(key);
      void Promise.all(cuts(from, to).map(([start, end, step]) => this.load(start, end, step)))
        .then(
          (all) => {
            this.parts.set(key, all.flatMap(linesOf));
            this.error = null;
          },
          (error: unknown) => this.refuse(key, error),
        )
        .finally(() => this.arrived(key));
    }
    return [];
  }

  private refuse(key: string, error: unknown): void {
    this.error = error;
    this.refused.set(key, performance.now());
    window.setTimeout(() => !this.closed && this.changed(), ASKED_AGAIN_MS + 50);
  }

  private missing({ step, index }: { step: number; index: number }): boolean {
    const key = `${step}:${index}`;
    const [begin, due] = this.span(step, index);
    if (begin >= due || this.asking.has(key)) return false;
    const refused = this.refused.get(key);
    if (refused !== undefined && performance.now() - refused < ASKED_AGAIN_MS) return false;
    const block = this.blocks.get(key);
    return !block || block.to < due;
  }

  /** What is to be loaded of a block: whole rows before the stream's first second. */
  private span(step: number, index: number): [number, number] {
    const begin = Math.max(0, index * step * BLOCK_ROWS);
    const streamFrom = this.streamed.at(0)?.ts ?? Infinity;
    return [begin, Math.min((index + 1) * step * BLOCK_ROWS, Math.floor(streamFrom / step) * step)];
  }

  private soon(): void {
    clearTimeout(this.timer);
    if (this.closed || !this.wanted.some((one) => this.missing(one))) return;
    this.timer = window.setTimeout(() => {
      for (const one of this.wanted) if (this.missing(one) && this.asking.size < 4) void this.fetch(one.step, one.index);
    }, WAIT_MS);
  }

  private async fetch(step: number, index: number): Promise<void> {
    const key = `${step}:${index}`;
    const [from, to] = this.span(step, index);
    this.asking.add(key);
    try {
      const series = await this.load(from, to, step);
      this.blocks.delete(key);
      this.blocks.set(key, { step, index, lines: linesOf(series), to });
      for (const old of [...this.blocks.keys()].slice(0, Math.max(0, this.blocks.size - BLOCKS_KEPT))) this.blocks.delete(old);
      this.error = null;
      this.refused.delete(key);
    } catch (error) {
      this.refuse(key, error);
    } finally {
      this.arrived(key);
    }
  }

  private arrived(key: string): void {
    this.asking.delete(key);
    this.version++;
    if (!this.closed) this.changed();
  }
}

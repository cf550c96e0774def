// A frame is what charts draw from: rows in time, each with its start, its end, and a value per column.

import type { Columns } from "./packs";
import type { Range } from "./linked";

export interface Frame {
  readonly start: Float64Array; // s, where a row begins
  readonly x: Float64Array; // s, where it ends: values hold at the close, so lines pass here
  readonly values: Columns["values"];
  readonly holes: Uint8Array; // 1: nothing is known between the row before and this one
  readonly finest: number; // s
}

/** Charts ask a source for the frame that suits a span. */
export interface Source {
  frame(range: Range): Frame;
}

export const NO_FRAME: Frame = {
  start: new Float64Array(),
  x: new Float64Array(),
  values: {},
  holes: new Uint8Array(),
  finest: 60,
};

/** Rows that tell their own width, s. */
export function rowFrame(columns: Columns, finest: number): Frame {
  const { ts, width, ...values } = columns.values;
  if (!ts?.length || !width) return { ...NO_FRAME, values };
  return framed(ts, width, values, finest);
}

/** Values at instants: no row has a width, and no time between them is a hole. */
export function pointFrame(columns: Columns): Frame {
  const { ts, ...values } = columns.values;
  if (!ts?.length) return { ...NO_FRAME, values };
  return { start: ts, x: ts, values, holes: new Uint8Array(columns.count), finest: 1 };
}

/** Rows of a minute or more, and in their places seconds where there are some. */
export function mixedFrame(base: Columns, seconds: Columns): Frame {
  const names = Object.keys(base.values).filter((name) => name !== "ts" && name !== "width");
  const coarse = base.values.ts ?? new Float64Array();
  const wide = base.values.width ?? new Float64Array();
  const fine = seconds.values.ts ?? new Float64Array();
  // Which rows, in order: a second's index from 0 on, a base row's as -1 - index.
  const order = new Int32Array(coarse.length + fine.length);
  let count = 0;
  let at = 0;
  for (let i = 0; i < coarse.length; i++) {
    while (at < fine.length && fine[at] < coarse[i]) order[count++] = at++;
    let end = at;
    while (end < fine.length && fine[end] < coarse[i] + wide[i]) end++;
    // Where seconds begin or end within a row, the row stays whole: a part of it is known to no other.
    const begins = end > at && fine[at] >= coarse[i] + 5 && (at === 0 || fine[at - 1] < coarse[i] - 60);
    const ends = coarse[i] + wide[i];
    const stops = end > at && fine[end - 1] < ends - 5 && (end === fine.length || fine[end] >= ends + 60);
    if (end === at || begins || stops) {
      order[count++] = -1 - i;
      at = end;
    } else {
      while (at < end) order[count++] = at++;
    }
  }
  while (at < fine.length) order[count++] = at++;
  const ts = new Float64Array(count);
  const width = new Float64Array(count);
  for (let i = 0; i < count; i++) {
    const second = order[i];
    ts[i] = second < 0 ? coarse[-1 - second] : fine[second];
    if (second < 0) {
      width[i] = wide[-1 - second];
    } else {
      // Five-second rows stand five seconds from both neighbours; a second beside a missing one is near to the other.
      const before = second > 0 ? fine[second] - fine[second - 1] : 5;
      const after = second + 1 < fine.length ? fine[second + 1] - fine[second] : 5;
      width[i] = Math.min(5, before, after);
    }
  }
  const values: Record<string, Float64Array> = {};
  for (const name of names) {
    const out = new Float64Array(count);
    const a = base.values[name];
    const b = seconds.values[name];
    if (!a || !b) continue; // what only one of the two knows cannot be drawn through
    for (let i = 0; i < count; i++) out[i] = order[i] < 0 ? a[-1 - order[i]] : b[order[i]];
    values[name] = out;
  }
  return framed(ts, width, values, 1);
}

function framed(
  start: Float64Array,
  width: Float64Array,
  values: Columns["values"],
  finest: number,
): Frame {
  const x = new Float64Array(start.length);
  const holes = new Uint8Array(start.length);
  for (let i = 0; i < start.length; i++) {
    x[i] = start[i] + width[i];
    // A row of five seconds may begin up to four after a minute.
    const allowed = i > 0 && Math.max(width[i], width[i - 1]) >= 5 ? 4 : 0;
    holes[i] = i > 0 && start[i] - x[i - 1] > allowed ? 1 : 0;
  }
  return { start, x, values, holes, finest };
}

/** The first index whose value is not below. */
export function firstFrom(values: ArrayLike<number>, value: number): number {
  let low = 0;
  let high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** The row that covers a time (or for values at instants the last before it), or -1. */
export function rowAt(frame: Frame, ts: number): number {
  let row = firstFrom(frame.start, ts);
  if (row === frame.start.length || frame.start[row] > ts) row--;
  if (row < 0) return -1;
  const isInstant = frame.x[row] === frame.start[row];
  return isInstant || ts < frame.x[row] ? row : -1;
}

/** The rows that lie within a span at least in part, as [first, end). */
export function visible(frame: Frame, range: Range): [number, number] {
  const first = firstFrom(frame.x, range.from);
  let end = Math.max(first, firstFrom(frame.start, range.to));
  while (end < frame.start.length && frame.x[end] === range.to) end++; // an instant at the very edge is within
  return [first, end];
}

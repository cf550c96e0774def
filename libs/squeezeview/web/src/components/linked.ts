// What linked charts share: the visible time, the crosshair, and nothing else.

import { calm } from "./theme";

export interface Range {
  from: number; // s, UTC
  to: number;
}

export type Change = "range" | "cursor" | "data";

const LEAST_S = 20; // closer than this nothing more can be seen

export class Linked {
  range: Range;
  cursor: number | null = null;
  private readonly listeners = new Set<(change: Change) => void>();
  private readonly pending = new Set<Change>();
  private frame = 0;
  private moving = 0;

  constructor(readonly whole: Range) {
    this.range = { ...whole };
  }

  on(listener: (change: Change) => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** Show a span; one that is too small or lies outside is moved in. */
  show(from: number, to: number): void {
    cancelAnimationFrame(this.moving);
    this.set(from, to);
  }

  /** Go to a span so that the eye can follow; at once for those who asked for less motion. */
  moveTo(from: number, to: number): void {
    cancelAnimationFrame(this.moving);
    if (calm()) {
      this.set(from, to);
      return;
    }
    const start = { ...this.range };
    const began = performance.now();
    const step = (now: number): void => {
      const share = Math.min(1, (now - began) / 240);
      const eased = 1 - (1 - share) ** 3;
      // The span's length changes by its logarithm: zooming in a thousandfold is not a jump at the end.
      const length = Math.exp(
        Math.log(start.to - start.from) * (1 - eased) + Math.log(Math.max(LEAST_S, to - from)) * eased,
      );
      const weight =
        Math.abs(start.to - start.from - (to - from)) < 1
          ? eased
          : (start.to - start.from - length) / (start.to - start.from - (to - from));
      const middle = ((start.from + start.to) / 2) * (1 - weight) + ((from + to) / 2) * weight;
      if (share < 1) {
        this.set(middle - length / 2, middle + length / 2);
        this.moving = requestAnimationFrame(step);
      } else {
        this.set(from, to);
      }
    };
    this.moving = requestAnimationFrame(step);
  }

  /** Zoom around a time: a factor below 1 comes closer. */
  zoom(factor: number, around = this.cursor ?? (this.range.from + this.range.to) / 2): void {
    const { from, to } = this.range;
    this.show(around - (around - from) * factor, around + (to - around) * factor);
  }

  pan(share: number): void {
    const by = (this.range.to - this.range.from) * share;
    this.show(this.range.from + by, this.range.to + by);
  }

  point(ts: number | null): void {
    if (ts === this.cursor) return;
    this.cursor = ts;
    this.tell("cursor");
  }

  /** Tell everybody once a frame, however often something changes. */
  tell(change: Change): void {
    this.pending.add(change);
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      const changes = [...this.pending];
      this.pending.clear();
      for (const one of changes) for (const listener of this.listeners) listener(one);
    });
  }

  private set(from: number, to: number): void {
    const whole = this.whole.to - this.whole.from;
    const length = Math.min(whole, Math.max(LEAST_S, to - from));
    const middle = (from + to) / 2;
    const start = Math.min(Math.max(middle - length / 2, this.whole.from), this.whole.to - length);
    if (start === this.range.from && start + length === this.range.to) return;
    this.range = { from: start, to: start + length };
    this.tell("range");
  }
}

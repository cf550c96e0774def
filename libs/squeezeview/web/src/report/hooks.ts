// What tests may ask of an open page, as `window.squeezeflow`. It reads what charts hold and does what a hand could do;
// nothing else depends on it, and it is as stable as the tests need it.

import type { Chart } from "../components/chart";
import { rowAt } from "../components/frames";
import type { Linked } from "../components/linked";

export interface ChartState {
  id: string;
  points: number; // rows drawn
  from: number; // s, UTC
  to: number;
  finest: number; // s, of the frame it draws from
  columns: string[];
}

export interface Hooks {
  ready: boolean;
  /** Each linked chart's state. */
  charts(): ChartState[];
  /** The value a chart holds for the row that covers a second; null where it holds none. */
  value(id: string, column: string, ts: number): number | null;
  /** The start of that row, or null. */
  row(id: string, ts: number): number | null;
  /** Show a span at once. */
  zoom(from: number, to: number): void;
  /** Choose a trade by its number, as a click in the table does. */
  select(trade: number | null): void;
  /** Times the charts were drawn, and the longest drawing in ms, since the last call. */
  drawing(): { times: number; longest: number };
}

declare global {
  interface Window {
    squeezeflow: Hooks;
  }
}

export class Registry implements Hooks {
  ready = false;
  groups = new Map<string, { linked: Linked; charts: Chart[] }>();
  choose: (trade: number | null) => void = () => undefined;

  private all(): Chart[] {
    return [...this.groups.values()].flatMap((group) => group.charts);
  }

  charts(): ChartState[] {
    return this.all().map((chart) => ({
      id: chart.spec.id,
      points: chart.drawn,
      ...chart.linked.range,
      finest: chart.frame.finest,
      columns: Object.keys(chart.frame.values),
    }));
  }

  value(id: string, column: string, ts: number): number | null {
    const chart = this.all().find((one) => one.spec.id === id);
    const row = chart ? rowAt(chart.frame, ts) : -1;
    return row < 0 ? null : (chart!.frame.values[column]?.[row] ?? null);
  }

  row(id: string, ts: number): number | null {
    const chart = this.all().find((one) => one.spec.id === id);
    const row = chart ? rowAt(chart.frame, ts) : -1;
    return row < 0 ? null : chart!.frame.start[row];
  }

  zoom(from: number, to: number): void {
    for (const { linked } of this.groups.values()) linked.show(from, to);
  }

  select(trade: number | null): void {
    this.choose(trade);
  }

  drawing(): { times: number; longest: number } {
    let times = 0;
    let longest = 0;
    for (const chart of this.all()) {
      times += chart.drawings.times;
      longest = Math.max(longest, chart.drawings.longest);
      chart.drawings = { times: 0, longest: 0 };
    }
    return { times, longest };
  }
}

export const registry = new Registry();

// What tests may ask of an open dashboard, as `window.squeezeflow`. It reads what is there and does what a hand could do.

import type { Chart } from "../components/chart";
import { rowAt } from "../components/frames";
import type { Linked } from "../components/linked";
import type { ChartState } from "../report/hooks";
import type { Stream } from "./stream";

export class LiveHooks {
  ready = false;
  group: { linked: Linked; charts: Chart[] } | null = null;
  stream: Stream | null = null;

  /** The seconds received since the page's stream was opened: first, last, how many, which are missing, how many came twice. */
  seconds(): { first: number; last: number; received: number; repeated: number; missing: number[] } | null {
    if (!this.stream) return null;
    const { first, last, received, repeated, missing } = this.stream.seconds;
    return { first, last, received, repeated, missing: [...missing] };
  }

  charts(): ChartState[] {
    return (this.group?.charts ?? []).map((chart) => ({
      id: chart.spec.id,
      points: chart.drawn,
      ...chart.linked.range,
      finest: chart.frame.finest,
      columns: Object.keys(chart.frame.values),
    }));
  }

  value(id: string, column: string, ts: number): number | null {
    const chart = this.group?.charts.find((one) => one.spec.id === id);
    const row = chart ? rowAt(chart.frame, ts) : -1;
    const value = row < 0 ? undefined : chart!.frame.values[column]?.[row];
    return value === undefined || Number.isNaN(value) ? null : value;
  }

  row(id: string, ts: number): number | null {
    const chart = this.group?.charts.find((one) => one.spec.id === id);
    const row = chart ? rowAt(chart.frame, ts) : -1;
    return row < 0 ? null : chart!.frame.start[row];
  }

  zoom(from: number, to: number): void {
    this.group?.linked.show(from, to);
  }
}

export const hooks = new LiveHooks();

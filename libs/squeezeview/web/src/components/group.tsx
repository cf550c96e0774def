// Charts one above the other, linked in time: one toolbar, one legend at the crosshair, one set of keys.

import type { ComponentChildren, JSX, TargetedKeyboardEvent } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { Chart, type ChartSpec, type Line } from "./chart";
import { clock, day, duration, moment } from "./format";
import { rowAt, type Source } from "./frames";
import type { Linked } from "./linked";

export interface Pane {
  spec: ChartSpec;
  source: Source;
}

const SPANS: [string, number][] = [
  ["1 week", 604_800],
  ["1 day", 86_400],
  ["4 h", 14_400],
  ["1 h", 3_600],
  ["10 min", 600],
];

interface Props {
  label: string;
  linked: Linked;
  panes: Pane[];
  onCharts: (charts: Chart[]) => void;
  note?: string; // what the charts are drawn from, below them
  spans?: ComponentChildren; // instead of the usual buttons for spans of time
  children?: ComponentChildren; // beside the toolbar's buttons
}

export function ChartGroup({ label, linked, panes, onCharts, note, spans, children }: Props): JSX.Element {
  const hosts = useRef<HTMLDivElement>(null);
  const [charts, setCharts] = useState<Chart[]>([]);
  const [spoken, setSpoken] = useState(""); // the crosshair's row for those who hear it

  useLayoutEffect(() => {
    const made = panes.map(
      ({ spec, source }, index) =>
        new Chart(spec, linked, source, hosts.current!.querySelectorAll<HTMLElement>(".host")[index]),
    );
    setCharts(made);
    onCharts(made);
    return () => made.forEach((chart) => chart.destroy());
  }, [panes, linked]);

  const keys = (event: TargetedKeyboardEvent<HTMLElement>): void => {
    if (event.target !== event.currentTarget || event.ctrlKey || event.metaKey || event.altKey) return;
    const { from, to } = linked.range;
    const row = linked.cursor ?? (from + to) / 2;
    const nudge = (sign: number): void => {
      const step = Math.max(1, Math.round((to - from) / 240));
      const next = Math.round(Math.min(to, Math.max(from, row + sign * step)));
      linked.point(next);
      setSpoken(`${moment(next)} UTC: ${charts.flatMap((chart) => chart.spec.lines.slice(0, 2).map((line) => read(chart, line, next))).join(", ")}`);
    };
    const actions: Partial<Record<string, () => void>> = {
      ArrowLeft: () => (event.shiftKey ? nudge(-1) : linked.pan(-0.1)),
      ArrowRight: () => (event.shiftKey ? nudge(1) : linked.pan(0.1)),
      "+": () => linked.zoom(0.7),
      "=": () => linked.zoom(0.7),
      "-": () => linked.zoom(1 / 0.7),
      Home: () => linked.moveTo(linked.whole.from, linked.whole.from + to - from),
      End: () => linked.moveTo(linked.whole.to - to + from, linked.whole.to),
      "0": () => linked.moveTo(linked.whole.from, linked.whole.to),
      Escape: () => linked.point(null),
    };
    const action = actions[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  };

  return (
    <div
      class="charts"
      role="group"
      tabIndex={0}
      aria-label={`${label}. Left and right arrows move, plus and minus zoom, zero shows everything, shift with an arrow moves the crosshair.`}
      onKeyDown={keys}
    >
      <div class="above">
        <div class="toolbar">
          {children}
          {spans ?? <Spans linked={linked} />}
        </div>
        <Legend linked={linked} charts={charts} />
      </div>
      <div ref={hosts}>
        {panes.map(({ spec }) => (
          <figure key={spec.id} class="chart" id={`chart-${spec.id}`}>
            <figcaption>
              {spec.title} <small>{spec.unit} · time in UTC</small>
              {spec.rebased && <Measure of={() => charts.find((chart) => chart.spec === spec)} />}
              <span class="keys">
                {spec.keys?.map((key) => (
                  <span key={key.text} class={`c-${key.color}`}>
                    {key.text}
                  </span>
                )) ??
                  spec.lines.map((line) => (
                    <span key={line.key}>
                      <i class={`swatch c-${line.color}`} />
                      {line.label}
                    </span>
                  ))}
              </span>
            </figcaption>
            <div class="host" />
          </figure>
        ))}
      </div>
      <p class="hidden" aria-live="polite">
        {spoken}
      </p>
      <p class="hint">
        {note} Drag to move, pinch or Ctrl + wheel to zoom (after a click the wheel alone), double-click for everything. Keys: ← → +
        − 0, Shift + ← → for the crosshair.
      </p>
    </div>
  );
}

function read(chart: Chart, line: Line, ts: number): string {
  const row = rowAt(chart.frame, ts);
  const value = row < 0 ? undefined : chart.frame.values[line.key]?.[row];
  return `${line.label} ${value === undefined || Number.isNaN(value) ? "unknown" : line.format(value)}`;
}

/** One measure for all lines of a chart, or one each. */
function Measure(props: { of: () => Chart | undefined }): JSX.Element {
  const [same, setSame] = useState(false);
  return (
    <button
      type="button"
      class="measure"
      aria-pressed={same}
      title="Off: each line has its own scale, zero at one height. On: one scale for all."
      onClick={() => {
        setSame(!same);
        props.of()?.measureAlike(!same);
      }}
    >
      one scale
    </button>
  );
}

function Spans({ linked }: { linked: Linked }): JSX.Element {
  const [, again] = useState(0);
  useEffect(() => linked.on((change) => change === "range" && again((n) => n + 1)), [linked]);
  const { from, to } = linked.range;
  const length = to - from;
  const whole = linked.whole.to - linked.whole.from;
  const middle = linked.cursor ?? (from + to) / 2;
  return (
    <>
      <span class="buttons" role="group" aria-label="Span of time shown">
        <button type="button" aria-pressed={length >= whole - 1} onClick={() => linked.moveTo(linked.whole.from, linked.whole.to)}>
          All
        </button>
        {SPANS.filter(([, span]) => span < whole).map(([name, span]) => (
          <button
            key={name}
            type="button"
            aria-pressed={Math.abs(length - span) < 1}
            onClick={() => linked.moveTo(middle - span / 2, middle + span / 2)}
          >
            {name}
          </button>
        ))}
      </span>
      <span class="range">
        {day(from) === day(to - 1)
          ? `${moment(from, length < 7_200)} – ${clock(to, length < 7_200)}`
          : `${moment(from, false)} – ${moment(to, false)}`}{" "}
        UTC <small>{duration(length)}</small>
      </span>
    </>
  );
}

/** The values of the row at the crosshair; without one, of the last row that is shown. */
function Legend({ linked, charts }: { linked: Linked; charts: Chart[] }): JSX.Element {
  const [, again] = useState(0);
  useEffect(() => linked.on(() => again((n) => n + 1)), [linked]);
  const ts = linked.cursor ?? linked.range.to - 0.001;
  const first = charts.at(0);
  const row = first ? rowAt(first.frame, ts) : -1;
  const start = row < 0 ? Math.floor(ts) : first!.frame.start[row];
  const width = row < 0 ? 0 : first!.frame.x[row] - start;
  return (
    <dl class="legend" aria-live="off">
      <div class="when">
        <dt>UTC</dt>
        <dd>
          {moment(start)} <small>{width > 0 ? `the ${duration(width)} from here` : row < 0 ? "no data" : ""}</small>
        </dd>
      </div>
      {charts.flatMap((chart) =>
        chart.spec.lines.map((line) => {
          const at = rowAt(chart.frame, ts);
          const value = at < 0 ? undefined : chart.frame.values[line.key]?.[at];
          return (
            <div key={chart.spec.id + line.key} class={`v-${line.key}`}>
              <dt>
                <i class={`swatch c-${line.color}`} />
                {line.label}
              </dt>
              <dd>{value === undefined || Number.isNaN(value) ? "–" : line.format(value)}</dd>
            </div>
          );
        }),
      )}
    </dl>
  );
}

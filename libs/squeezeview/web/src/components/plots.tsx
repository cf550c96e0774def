// Small still pictures, drawn as SVG in the width they have: intervals, histograms, scatters, bars.

import type { ComponentChildren, JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

/** A picture that knows its width. */
export function Picture(props: {
  label: string;
  height: number;
  children: (width: number) => ComponentChildren;
}): JSX.Element {
  const host = useRef<HTMLDivElement>(null);
  const [width, setWidth] = useState(0);
  useEffect(() => {
    const element = host.current!;
    const seen = new ResizeObserver(() => setWidth(element.clientWidth));
    seen.observe(element);
    setWidth(element.clientWidth);
    return () => seen.disconnect();
  }, []);
  return (
    <div ref={host} class="picture" data-height={props.height}>
      {width > 0 && (
        <svg width={width} height={props.height} role="img" aria-label={props.label}>
          {props.children(width)}
        </svg>
      )}
    </div>
  );
}

/** Round levels that cover a span. */
export function niceSteps(low: number, high: number, most: number): number[] {
  if (!(high > low)) return [low];
  const least = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(least));
  const step = power * ([1, 2, 5, 10].find((n) => n * power >= least * 0.999) ?? 10);
  const out: number[] = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n++) out.push(n * step);
  return out;
}

/** An interval with its value, and what stands for nothing gained: does it lie on one side? */
export function IntervalBar(props: { low: number; value: number; high: number; zero: number | null }): JSX.Element {
  const { low, value, high, zero } = props;
  const least = Math.min(low, zero ?? low, value);
  const most = Math.max(high, zero ?? high, value);
  const at = (x: number): number => 4 + ((x - least) / (most - least || 1)) * 112;
  const tone = zero === null ? "even" : low > zero ? "good" : high < zero ? "bad" : "even";
  return (
    <svg class={`interval ${tone}`} viewBox="0 0 120 14" aria-hidden="true">
      {zero !== null && <line class="zero" x1={at(zero)} x2={at(zero)} y1="0" y2="14" />}
      <line class="reach" x1={at(low)} x2={at(high)} y1="7" y2="7" />
      <circle cx={at(value)} cy="7" r="3.5" />
    </svg>
  );
}

export interface Mark {
  value: number;
  label: string;
}

/** How often values fall where; bars below zero and above it in the pair of colours, or all in one. */
export function Histogram(props: {
  label: string;
  values: number[];
  axis: (value: number) => string;
  unit: string;
  count: string;
  signed?: boolean;
  mark?: Mark;
  height?: number;
}): JSX.Element {
  const { values, mark, height = 190 } = props;
  return (
    <Picture label={props.label} height={height}>
      {(width) => {
        const all = mark ? [...values, mark.value] : values;
        let low = Math.min(...all, props.signed ? 0 : Infinity);
        let high = Math.max(...all, props.signed ? 0 : -Infinity);
        if (low === high) [low, high] = [low - 1, high + 1];
        const wanted = Math.max(8, Math.min(40, Math.round(Math.sqrt(values.length) * 2), Math.floor(width / 14)));
        const steps = niceSteps(low, high, wanted);
        const step = steps.length > 1 ? steps[1] - steps[0] : high - low;
        const first = Math.floor(low / step + 1e-9);
        const bins = new Array<number>(Math.max(1, Math.ceil(high / step - 1e-9) - first)).fill(0);
        for (const value of values)
          bins[Math.min(bins.length - 1, Math.max(0, Math.floor(value / step + 1e-9) - first))]++;
        const most = Math.max(...bins, 1);
        const [left, right, top, bottom] = [34, 8, mark ? 20 : 8, height - 34];
        const x = (value: number): number =>
          left + ((value / step - first) / bins.length) * (width - left - right);
        const y = (count: number): number => bottom - (count / most) * (bottom - top);
        return (
          <>
            {niceSteps(0, most, 4)
              .filter(Number.isInteger)
              .map((count) => (
                <g key={count}>
                  <line class="gridline" x1={left} x2={width - right} y1={y(count)} y2={y(count)} />
                  <text class="tick end" x={left - 5} y={y(count) + 3.5}>
                    {count}
                  </text>
                </g>
              ))}
            {bins.map((count, index) => {
              const from = x((first + index) * step);
              const tone = !props.signed ? "plain" : first + index >= 0 ? "good" : "bad";
              return (
                count > 0 && (
                  <rect
                    key={index}
                    class={`bar ${tone}`}
                    x={from + 0.5}
                    y={y(count)}
                    width={Math.max(1, x((first + index + 1) * step) - from - 1)}
                    height={bottom - y(count)}
                  >
                    <title>
                      {`${props.axis((first + index) * step)} to ${props.axis((first + index + 1) * step)} ${props.unit}: ${count}`}
                    </title>
                  </rect>
                )
              );
            })}
            {niceSteps(first * step, (first + bins.length) * step, Math.max(3, Math.floor(width / 56))).map((value) => (
              <text key={value} class="tick middle" x={x(value)} y={bottom + 14}>
                {props.axis(value)}
              </text>
            ))}
            <text class="unit end" x={width - right} y={height - 4}>
              {props.unit}
            </text>
            <text class="unit" x={2} y={height - 4}>
              {props.count}
            </text>
            {mark && (
              <g class="mark">
                <line x1={x(mark.value)} x2={x(mark.value)} y1={14} y2={bottom} />
                <text class={x(mark.value) > width / 2 ? "end" : ""} x={x(mark.value) + (x(mark.value) > width / 2 ? -5 : 5)} y={12}>
                  {mark.label}
                </text>
              </g>
            )}
          </>
        );
      }}
    </Picture>
  );
}

export interface Dot {
  x: number;
  y: number;
  good: boolean;
  title: string;
  key: number;
}

export function Scatter(props: {
  label: string;
  dots: Dot[];
  xUnit: string;
  yUnit: string;
  axis: (value: number) => string;
  onPick?: (key: number) => void;
  height?: number;
}): JSX.Element {
  const { dots, height = 190 } = props;
  return (
    <Picture label={props.label} height={height}>
      {(width) => {
        const lowX = Math.min(0, ...dots.map((dot) => dot.x));
        const highX = Math.max(0, ...dots.map((dot) => dot.x)) || 1;
        const lowY = Math.min(0, ...dots.map((dot) => dot.y));
        const highY = Math.max(0, ...dots.map((dot) => dot.y)) || 1;
        const levels = niceSteps(lowY, highY, 6);
        const longest = Math.max(...levels.map((value) => props.axis(value).length));
        const [left, right, top, bottom] = [Math.max(44, 8 + 6.6 * longest), 10, 8, height - 34];
        const x = (value: number): number => left + ((value - lowX) / (highX - lowX || 1)) * (width - left - right);
        const y = (value: number): number => bottom - ((value - lowY) / (highY - lowY || 1)) * (bottom - top);
        return (
          <>
            {levels.map((value) => (
              <g key={value}>
                <line class="gridline" x1={left} x2={width - right} y1={y(value)} y2={y(value)} />
                <text class="tick end" x={left - 5} y={y(value) + 3.5}>
                  {props.axis(value)}
                </text>
              </g>
            ))}
            {niceSteps(lowX, highX, Math.max(3, Math.floor(width / 56))).map((value) => (
              <text key={value} class="tick middle" x={x(value)} y={bottom + 14}>
                {props.axis(value)}
              </text>
            ))}
            {dots.map((dot) => (
              <path
                key={dot.key}
                class={`dot ${dot.good ? "good" : "bad"}`}
                transform={`translate(${x(dot.x)} ${y(dot.y)})`}
                d={dot.good ? "M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0" : "M-3 -3L3 3M-3 3L3 -3"}
                onClick={() => props.onPick?.(dot.key)}
              >
                <title>{dot.title}</title>
              </path>
            ))}
            <text class="unit end" x={width - right} y={height - 4}>
              {props.xUnit}
            </text>
            <text class="unit" x={2} y={height - 4}>
              ↑ {props.yUnit}
            </text>
          </>
        );
      }}
    </Picture>
  );
}

/** A bar from zero within a cell, to the left or to the right. */
export function CellBar(props: { value: number; most: number }): JSX.Element {
  const share = props.most > 0 ? Math.min(1, Math.abs(props.value) / props.most) : 0;
  return (
    <svg class={`cellbar ${props.value >= 0 ? "good" : "bad"}`} viewBox="0 0 80 10" preserveAspectRatio="none" aria-hidden="true">
      <rect x={props.value >= 0 ? 40 : 40 - share * 40} y="1" width={share * 40} height="8" />
      <line x1="40" x2="40" y1="0" y2="10" />
    </svg>
  );
}

/** How much of its greatest value something has. */
export function Meter(props: { value: number; most: number }): JSX.Element {
  const share = props.most > 0 ? Math.min(1, Math.abs(props.value) / props.most) : 0;
  return (
    <svg class={`meter ${props.value < 0 ? "bad" : "good"}`} viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">
      <rect class="room" width="100" height="8" />
      <rect class="level" width={share * 100} height="8" />
    </svg>
  );
}

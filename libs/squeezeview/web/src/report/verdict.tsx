// What it came to: the word, why, and the numbers everybody asks for, each with how far it may be luck.

import type { JSX } from "preact";
import { compact, withUnit } from "../components/format";
import { IntervalBar } from "../components/plots";
import type { Figure, FigureGroup, RunPage, Verdict } from "./document";

/** Where nothing was gained; a drawdown or a share has no such place. */
const NOTHING: Partial<Record<string, number | null>> = { profit_factor: 1, omega: 1, max_drawdown: null, win_rate: null };
const SIGNED = new Set(["share", "usd", "bps"]);

const nothing = ({ name, low, value }: Figure): number | null =>
  name in NOTHING ? (NOTHING[name] ?? null) : name.includes("drawdown") || low === null || value === null ? null : 0;

export function show(figure: Figure, value: number | null = figure.value): string {
  return withUnit(value, figure.unit, SIGNED.has(figure.unit) && (value ?? 0) < 0);
}

/** Millions by their letter: a headline has room for ten characters. */
const brief = (figure: Figure): string =>
  figure.unit === "usd" && Math.abs(figure.value ?? 0) >= 1e6 ? `${compact(figure.value)} USD` : show(figure);

export function VerdictView({ verdict }: { verdict: Verdict }): JSX.Element {
  const tone = verdict.word === "edge" ? (verdict.provisional ? "even" : "good") : verdict.word === "no edge" ? "bad" : "even";
  return (
    <section class="verdict" aria-labelledby="verdict">
      <h2 id="verdict" class={tone}>
        <span class="hidden">Verdict: </span>
        {verdict.word}
        {verdict.provisional && <small>, provisional</small>}
      </h2>
      <p class="sentence">{verdict.sentence}</p>
      <ul class="reasons">
        {verdict.reasons.map((reason) => (
          <li key={reason.text} class={reason.points > 0 ? "for" : reason.points < 0 ? "against" : "neither"}>
            <span class="hidden">{reason.points > 0 ? "For an edge: " : reason.points < 0 ? "Against: " : "Neither: "}</span>
            {reason.text}
          </li>
        ))}
      </ul>
    </section>
  );
}

export function Headline({ run }: { run: RunPage }): JSX.Element {
  return (
    <section aria-labelledby="headline" class="headline">
      <h2 id="headline" class="hidden">
        Headline figures
      </h2>
      <ul>
        {run.headline.map((figure) => (
          <li key={figure.name}>
            <span class="name" title={figure.note}>
              {figure.label}
            </span>
            <strong>{brief(figure)}</strong>
            {figure.low !== null && figure.high !== null && figure.value !== null ? (
              <span class="reach">
                <IntervalBar low={figure.low} value={figure.value} high={figure.high} zero={nothing(figure)} />
                <small>
                  {show(figure, figure.low)} to {show(figure, figure.high)}
                </small>
              </span>
            ) : (
              <small class="reach">{figure.value === null ? figure.note : ""}</small>
            )}
          </li>
        ))}
      </ul>
      {run.headline.some((figure) => figure.low !== null) && (
        <p class="hint">Below a figure: its 95 % interval from a block bootstrap of the days; the upright line is where nothing is gained.</p>
      )}
    </section>
  );
}

/** Every figure in its group; a definition opens under its name. */
export function Figures({ groups }: { groups: FigureGroup[] }): JSX.Element {
  return (
    <div class="columns stacked narrow">
      {groups.map((group) => (
        <table key={group.title} class="figures">
          <caption>{group.title}</caption>
          <tbody>
            {group.figures.map((figure) => (
              <tr key={figure.name}>
                <th scope="row">
                  {figure.note ? (
                    <details>
                      <summary>{figure.label}</summary>
                      {figure.note}
                    </details>
                  ) : (
                    figure.label
                  )}
                </th>
                <td>
                  {show(figure)}
                  <Reach figure={figure} />
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      ))}
    </div>
  );
}

/** A figure's interval in words, where it has one. */
export function Reach({ figure }: { figure: Figure }): JSX.Element | null {
  if (figure.low === null || figure.high === null) return null;
  return (
    <small>
      {show(figure, figure.low)} to {show(figure, figure.high)}
    </small>
  );
}

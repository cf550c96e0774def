// The rest of a run's page: months, costs, luck, data, receipt.

import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { duration, moment, MONTHS, number, percent } from "../components/format";
import { Histogram } from "../components/plots";
import type { CostStress, Month, Placebo, Quality, ReceiptLine, RunPage } from "./document";

/** Strength of a colour in steps of the style sheet: -4 to 4. */
function heat(value: number, most: number): string {
  if (value === 0 || most === 0) return "";
  return `${value > 0 ? "up" : "down"}${Math.max(1, Math.min(4, Math.ceil((Math.abs(value) / most) * 4)))}`;
}

export function Months({ months }: { months: Month[] }): JSX.Element {
  if (months.length === 0) return <p class="empty">No whole day, no month.</p>;
  const years = [...new Set(months.map((month) => month.year))].sort((a, b) => a - b);
  const most = Math.max(...months.map((month) => Math.abs(month.total_return)));
  return (
    <div class="scroll" role="region" aria-label="Monthly returns" tabIndex={0}>
      <table class="months">
        <caption class="hidden">Return of each calendar month, in per cent</caption>
        <thead>
          <tr>
            <th scope="col" class="left">
              %
            </th>
            {MONTHS.map((name) => (
              <th scope="col" key={name}>
                {name}
              </th>
            ))}
            <th scope="col">Year</th>
          </tr>
        </thead>
        <tbody>
          {years.map((year) => {
            const within = months.filter((month) => month.year === year);
            const total = within.reduce((product, month) => product * (1 + month.total_return), 1) - 1;
            return (
              <tr key={year}>
                <th scope="row">{year}</th>
                {MONTHS.map((name, index) => {
                  const month = within.find((one) => one.month === index + 1);
                  return (
                    <td
                      key={name}
                      class={month ? `heat ${heat(month.total_return, most)}` : "none"}
                      title={month ? `${month.days} days` : "not in the run"}
                    >
                      {month ? number(month.total_return * 100, 2, true) : "·"}
                      {month && month.days < 28 && <small>{month.days} d</small>}
                    </td>
                  );
                })}
                <td>{number(total * 100, 2, true)}</td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </div>
  );
}

export function Costs({ run, stress }: { run: RunPage; stress: CostStress | null }): JSX.Element {
  const sum = (of: (trade: RunPage["trades"][number]) => number): number => run.trades.reduce((all, trade) => all + of(trade), 0);
  const fees = sum((trade) => trade.fees_usd);
  const slippage = sum((trade) => trade.slippage_usd);
  const funding = sum((trade) => trade.funding_usd);
  const net = sum((trade) => trade.pnl_usd);
  const turnover = sum((trade) => trade.notional_usd) * 2;
  const lines: [string, number][] = [
    ["Before costs", net + fees + slippage - funding],
    ["Fees", -fees],
    ["Slippage", -slippage],
    ["Funding", funding],
    ["Trades' result", net],
  ];
  return (
    <div class="columns wide">
      <table class="figures">
        <caption>From gross to net</caption>
        <thead>
          <tr>
            <th scope="col" class="left">
              <span class="hidden">Item</span>
            </th>
            <th scope="col">USD</th>
            <th scope="col">
              bps <small>of turnover</small>
            </th>
          </tr>
        </thead>
        <tbody>
          {lines.map(([name, value]) => (
            <tr key={name} class={name === "Trades' result" ? "total" : ""}>
              <th scope="row">{name}</th>
              <td class={value > 0 ? "good" : value < 0 ? "bad" : ""}>{number(value, 2, true)}</td>
              <td>{turnover ? number((value / turnover) * 1e4, 2, true) : "–"}</td>
            </tr>
          ))}
        </tbody>
      </table>
      {stress && (
        <div>
          <table class="figures">
            <caption>The same signals at other costs</caption>
            <thead>
              <tr>
                <th scope="col" class="left">
                  Costs
                </th>
                <th scope="col">Return</th>
                <th scope="col">Sharpe</th>
                <th scope="col">Trades</th>
                <th scope="col">
                  Paid <small>USD</small>
                </th>
              </tr>
            </thead>
            <tbody>
              {stress.lines.map((line) => (
                <tr key={line.factor}>
                  <th scope="row">× {number(line.factor, Number.isInteger(line.factor) ? 0 : 2)}</th>
                  <td class={line.total_return > 0 ? "good" : "bad"}>{percent(line.total_return, 2, true)}</td>
                  <td>{number(line.sharpe, 2, true)}</td>
                  <td>{number(line.trades)}</td>
                  <td>{number(line.costs_usd)}</td>
                </tr>
              ))}
            </tbody>
          </table>
          <p>
            {stress.break_even !== null && (
              <>
                The edge is gone at costs <strong>× {number(stress.break_even, 2)}</strong>.{" "}
              </>
            )}
            {stress.note}
          </p>
        </div>
      )}
    </div>
  );
}

export function Placebos({ placebos }: { placebos: Placebo[] }): JSX.Element {
  if (placebos.length === 0) return <p class="empty">No placebo was computed for this run.</p>;
  return (
    <div class="columns wide">
      {placebos.map((placebo) => (
        <figure key={placebo.name} id={`placebo-${placebo.name}`}>
          <figcaption>
            {placebo.title} <small>{placebo.values.length} placebos</small>
          </figcaption>
          <Histogram
            label={`${placebo.title}: ${placebo.measure} of ${placebo.values.length} placebos, the real result is ${percent(placebo.real)}`}
            values={placebo.values}
            axis={(value) => number(value * 100, Math.abs(value) < 0.05 && value !== 0 ? 1 : 0)}
            unit={`${placebo.measure}, %`}
            count="placebos"
            mark={{ value: placebo.real, label: `real ${percent(placebo.real, 2, true)}` }}
          />
          <p>
            <strong>p = {number(placebo.p_value, 3)}</strong>. {placebo.what} {placebo.note}
          </p>
        </figure>
      ))}
    </div>
  );
}

const counted = (n: number, word: string): string => `${number(n)} ${word}${n === 1 ? "" : "s"}`;

const LONG_DAYS = 100; // above, weeks stand beside one another as narrow columns

export function QualityView({ quality }: { quality: Quality }): JSX.Element {
  const missing = quality.seconds_expected - quality.seconds;
  const first = quality.days.length ? new Date(`${quality.days[0].day}T00:00:00Z`) : null;
  const lead = first ? (first.getUTCDay() + 6) % 7 : 0; // weeks begin on Monday
  return (
    <div class="quality">
      <h3>{quality.asset}</h3>
      <p>
        {number(quality.seconds)} of {number(quality.seconds_expected)} seconds (
        {percent(quality.seconds_expected ? quality.seconds / quality.seconds_expected : 0, 3)}), {number(missing)} missing in{" "}
        {counted(quality.days.reduce((all, one) => all + one.holes, 0), "hole")}; {number(quality.incomplete)} incomplete (
        {percent(quality.seconds ? quality.incomplete / quality.seconds : 0, 3)}).
      </p>
      <div class="columns">
        <figure>
          <figcaption>
            Each day <small>share of its seconds that are whole</small>
          </figcaption>
          <ol class={quality.days.length > LONG_DAYS ? "calendar weeks" : "calendar"} aria-label="Days and the share of their seconds that are whole">
            {["Mo", "Tu", "We", "Th", "Fr", "Sa", "Su"].map((name) => (
              <li key={name} class="weekday" aria-hidden="true">
                {name}
              </li>
            ))}
            {Array.from({ length: lead }, (_, index) => (
              <li key={`lead${index}`} aria-hidden="true" />
            ))}
            {quality.days.map((one) => {
              const whole = Math.max(0, one.seconds - one.incomplete) / 86_400;
              const level = whole >= 0.9999 ? 4 : whole >= 0.99 ? 3 : whole >= 0.9 ? 2 : whole > 0 ? 1 : 0;
              const words = `${one.day}: ${percent(whole, 2)} whole, ${one.incomplete} s incomplete, ${86_400 - one.seconds} s missing in ${counted(one.holes, "hole")}`;
              return (
                <li key={one.day} class={`day whole${level}`} title={words}>
                  <span aria-hidden="true">{Number(one.day.slice(8))}</span>
                  {one.holes > 0 && <i aria-hidden="true" />}
                  <span class="hidden">{words}</span>
                </li>
              );
            })}
          </ol>
          <p class="hint scale">
            <i class="whole4" /> ≥ 99.99 % <i class="whole3" /> ≥ 99 % <i class="whole2" /> ≥ 90 % <i class="whole1" /> less{" "}
            <i class="whole0" /> none; a dot: has holes
          </p>
        </figure>
        <table class="figures">
          <caption>Venues</caption>
          <thead>
            <tr>
              <th scope="col" class="left">
                Instrument
              </th>
              <th scope="col">Weight</th>
              <th scope="col">Complete</th>
              <th scope="col">Gaps</th>
            </tr>
          </thead>
          <tbody>
            {quality.venues.map((venue) => (
              <tr key={venue.instrument}>
                <th scope="row">{venue.instrument}</th>
                <td>{number(venue.weight, 2)}</td>
                <td>{venue.seconds ? percent(venue.complete / venue.seconds, 3) : "–"}</td>
                <td>{number(venue.gaps)}</td>
              </tr>
            ))}
          </tbody>
        </table>
        {quality.holes.length > 0 && (
          <table class="figures">
            <caption>
              Longest holes <small>UTC</small>
            </caption>
            <thead>
              <tr>
                <th scope="col" class="left">
                  From
                </th>
                <th scope="col">Length</th>
              </tr>
            </thead>
            <tbody>
              {quality.holes.slice(0, 8).map(([start, end]) => (
                <tr key={start}>
                  <th scope="row">{moment(start)}</th>
                  <td>{duration(end - start)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        )}
      </div>
    </div>
  );
}

export function Receipt({ lines }: { lines: ReceiptLine[] }): JSX.Element {
  const [told, setTold] = useState("");
  const copy = async (text: string, what: string): Promise<void> => {
    try {
      await navigator.clipboard.writeText(text);
      setTold(`${what}: copied`);
    } catch {
      // A page opened from a file may use the clipboard only after a click, in some browsers not at all.
      setTold(`${what}: not copied, the browser refused; mark it by hand`);
    }
  };
  return (
    <>
      <dl class="receipt">
        {lines.map((line) => (
          <div key={line.label}>
            <dt>{line.label}</dt>
            <dd>
              <code>{line.text}</code>
              <button type="button" aria-label={`Copy ${line.label}`} onClick={() => void copy(line.text, line.label)}>
                copy
              </button>
              {line.note && <small>{line.note}</small>}
            </dd>
          </div>
        ))}
      </dl>
      <p>
        <button
          type="button"
          onClick={() => void copy(lines.map((line) => `${line.label}: ${line.text}`).join("\n"), "The receipt")}
        >
          Copy all
        </button>{" "}
        <output>{told}</output>
      </p>
    </>
  );
}

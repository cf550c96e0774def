// Why a trade was taken and left: beside the charts, so that reasons and picture are seen together.

import type { JSX } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { clock, compact, day, duration, moment, number, percent, usd } from "../components/format";
import { Meter } from "../components/plots";
import type { TradeLine, Why } from "./document";

interface Props {
  trade: TradeLine;
  decimals: number;
  onStep: (by: number) => void;
  onClose: () => void;
}

export function TradePanel({ trade, decimals, onStep, onClose }: Props): JSX.Element {
  const panel = useRef<HTMLElement>(null);
  useEffect(() => panel.current?.focus({ preventScroll: true }), []);
  useEffect(() => {
    panel.current!.scrollTop = 0;
  }, [trade.number]);
  const price = (value: number): string => number(value, decimals);
  const facts: [string, string, number?][] = [
    ["Result", `${usd(trade.pnl_usd, true)} · ${percent(trade.pnl_share, 2, true)}`, trade.pnl_usd],
    ["Entry", `${price(trade.entry_price)} at ${moment(trade.entry_ts)} UTC`],
    ["Exit", `${price(trade.exit_price)} at ${moment(trade.exit_ts)} UTC`],
    ["Held", `${duration(trade.hold_s)}, tier ${trade.tier}`],
    ["Size", `${number(trade.qty, 4)} · ${usd(trade.notional_usd)}`],
    ["Costs", `fees ${usd(trade.fees_usd)}, slippage ${usd(trade.slippage_usd)}, funding ${usd(trade.funding_usd, true)}`],
    ["Worst / best", `${usd(trade.mae_usd, true)} / ${usd(trade.mfe_usd, true)}`],
    ["Structure border", trade.level === null ? "none" : price(trade.level)],
  ];
  return (
    <aside
      class="panel"
      ref={panel}
      tabIndex={-1}
      aria-label={`Trade ${trade.number}: why it was taken and left`}
      onKeyDown={(event) => {
        if (event.key === "Escape") onClose();
        if (event.key === "ArrowLeft" || event.key === "ArrowRight") onStep(event.key === "ArrowLeft" ? -1 : 1);
      }}
    >
      <header>
        <h2>
          Trade {trade.number}
          <span class={trade.direction > 0 ? "long" : "short"}>{trade.direction > 0 ? "long" : "short"}</span>
          <small>{trade.asset}</small>
        </h2>
        <button type="button" aria-label="Trade before" onClick={() => onStep(-1)}>
          ←
        </button>
        <button type="button" aria-label="Trade after" onClick={() => onStep(1)}>
          →
        </button>
        <button type="button" aria-label="Close" onClick={onClose}>
          ✕
        </button>
      </header>
      <dl class="facts">
        {facts.map(([name, text, tone]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd class={tone === undefined ? "" : tone > 0 ? "good" : "bad"}>{text}</dd>
          </div>
        ))}
      </dl>
      {trade.entry_why ? <WhyView why={trade.entry_why} head="Why it was taken" /> : <Unknown head="Why it was taken" />}
      {trade.exit_why ? (
        <WhyView why={trade.exit_why} head="Why it was left" />
      ) : (
        <Unknown head="Why it was left" text={trade.reason_words} />
      )}
    </aside>
  );
}

/** The day only where it is another one. */
function knownAt(ts: number, decided: number): string {
  return day(ts) === day(decided) ? clock(ts) : moment(ts);
}

function Unknown({ head, text }: { head: string; text?: string }): JSX.Element {
  return (
    <section>
      <h3>{head}</h3>
      <p>{text ? `${text}.` : ""} No record of this decision is in the report.</p>
    </section>
  );
}

export function WhyView({ why, head }: { why: Why; head: string }): JSX.Element {
  return (
    <section class="why">
      <h3>
        {head} <small>decided at the close of {moment(why.ts)} UTC</small>
      </h3>
      <p>
        <strong>{why.title}</strong>
        <br />
        {why.sentence}
      </p>
      {why.blocked_by.length > 0 && <p class="warning">Held back by: {why.blocked_by.join(", ")}</p>}
      {why.parts.length > 0 && (
        <table class="parts">
          <caption>
            Score {number(why.score, 3)} of 10, reset machine {why.phase}
          </caption>
          <tbody>
            {why.parts.map((part) => (
              <tr key={part.label}>
                <th scope="row">
                  {part.label}
                  {part.text && <small>{part.text}</small>}
                </th>
                <td class="meterbox">
                  <Meter value={part.points} most={part.points_max} />
                </td>
                <td>
                  {number(part.points, 2)}
                  <small> of {number(part.points_max, 1)}</small>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      {why.inputs.length > 0 && (
        <table class="inputs">
          <caption>What was looked at</caption>
          <thead>
            <tr>
              <th scope="col" class="left">
                Input <small>known at, UTC</small>
              </th>
              <th scope="col" class="left">
                Value <small>held against</small>
              </th>
            </tr>
          </thead>
          <tbody>
            {why.inputs.map((input) => (
              <tr key={input.label} class={input.met === null ? "" : input.met ? "met" : "unmet"}>
                <th scope="row">
                  <span class="mark" aria-hidden="true" />
                  {input.met !== null && <span class="hidden">{input.met ? "met: " : "not met: "}</span>}
                  {input.label}
                  <small>{knownAt(input.known_at ?? why.ts, why.ts)}</small>
                </th>
                <td class="left">
                  {input.text}
                  {input.threshold && <small>{input.threshold}</small>}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      {why.windows.length > 0 && (
        <div class="scroll" role="region" aria-label="Flow of each window" tabIndex={0}>
          <table class="windows">
            <caption>
              Flow of each window before it <small>USD; z in swings</small>
            </caption>
            <thead>
              <tr>
                <th scope="col" class="left">
                  Window
                </th>
                <th scope="col">Spot</th>
                <th scope="col">z</th>
                <th scope="col">Perp</th>
                <th scope="col">z</th>
                <th scope="col">Gap</th>
                <th scope="col">in swings</th>
                <th scope="col">Return</th>
                <th scope="col">z</th>
              </tr>
            </thead>
            <tbody>
              {why.windows.map((line) => (
                <tr key={line.window_s}>
                  <th scope="row">{duration(line.window_s)}</th>
                  <td>{compact(line.spot_usd, true)}</td>
                  <td>{number(line.z_spot, 2, true)}</td>
                  <td>{compact(line.perp_usd, true)}</td>
                  <td>{number(line.z_perp, 2, true)}</td>
                  <td>{number(line.gap, 2, true)}</td>
                  <td>{number(line.gap_in_swings, 2)}</td>
                  <td>{percent(line.price_return, 2, true)}</td>
                  <td>{number(line.z_return, 2, true)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </section>
  );
}

// Why: a second explained beside the charts, with the records that were stored of it.

import type { JSX } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { moment, number } from "../components/format";
import { WhyView } from "../report/why";
import { query } from "./api";
import type { Events } from "./charts";
import { blockWords, whyOf, type Explained } from "./reasons";
import { Absent, useAsked, Waiting } from "./shared";
import { sideOf, signOf, type Decision, type Instrument } from "./types";

interface Props {
  asset: string;
  ts: number;
  account: string;
  events: Events;
  instrument: Instrument | null;
  onStep: (by: number) => void;
  onClose: () => void;
}

const KINDS: Record<string, string> = {
  entry: "an entry was ordered",
  exit: "an exit was ordered",
  denied: "a limit denied an order",
  block: "an entry was held back",
  reset: "the reset machine changed",
  direction: "the direction changed",
  candle: "a candle changed the parts",
};

export function WhyPanel({ asset, ts, account, events, instrument, onStep, onClose }: Props): JSX.Element {
  const panel = useRef<HTMLElement>(null);
  useEffect(() => {
    panel.current?.focus({ preventScroll: true });
    panel.current!.scrollTop = 0;
  }, [ts]);
  const explained = useAsked<Explained>(`/v1/assets/${encodeURIComponent(asset)}/explain${query({ at: ts })}`);
  const stored = useAsked<{ decisions: Decision[] }>(
    `/v1/accounts/${encodeURIComponent(account)}/decisions${query({ asset, from: ts, to: ts + 1 })}`,
  );
  const signal = events.signals.find((one) => one.ts === ts);
  const fills = events.fills.filter((one) => one.ts === ts);
  const side = signOf(signal?.direction ?? stored.value?.decisions[0]?.direction);
  const [priceScale, qtyScale] = [10 ** (instrument?.price_decimals ?? 0), 10 ** (instrument?.qty_decimals ?? 0)];
  const recomputed = explained.value?.explanation.score_milli;
  const differs = stored.value?.decisions.find((one) => recomputed !== undefined && one.score_milli !== recomputed);
  return (
    <aside
      class="panel why-panel"
      ref={panel}
      tabIndex={-1}
      aria-label={`${asset} at ${moment(ts)} UTC: why`}
      onKeyDown={(event) => {
        if (event.key === "Escape") onClose();
        else if (event.key === "ArrowLeft" || event.key === "ArrowRight") onStep(event.key === "ArrowLeft" ? -1 : 1);
        else return;
        event.stopPropagation();
      }}
    >
      <header>
        <h2>
          {signal ? "Signal" : fills.length ? "Fill" : "Second"}
          {side !== 0 && <span class={side > 0 ? "long" : "short"}>{side > 0 ? "long" : "short"}</span>}
          <small>{moment(ts)} UTC</small>
        </h2>
        <button type="button" aria-label="Signal before" onClick={() => onStep(-1)}>
          ←
        </button>
        <button type="button" aria-label="Signal after" onClick={() => onStep(1)}>
          →
        </button>
        <button type="button" aria-label="Close" onClick={onClose}>
          ✕
        </button>
      </header>
      {signal && (
        <p>
          Said with score <strong>{number(signal.score_milli / 1_000, 3)}</strong>
          {signal.reasons.length > 0 && <>: {signal.reasons.map((one) => one.replaceAll("_", " ")).join(", ")}</>}.
        </p>
      )}
      {fills.map((fill) => (
        <p key={fill.id}>
          {sideOf(fill.side) > 0 ? "Bought" : "Sold"} <strong>{number(fill.qty / qtyScale, 4)}</strong> {fill.asset} at{" "}
          <strong>{number(fill.price / priceScale, 2)}</strong>, fee {number(fill.fee_usd_e8 / 1e8, 2)} USD, {fill.liquidity}
          {fill.reason && `, ${fill.reason.replaceAll("_", " ")}`}.
        </p>
      ))}
      <section class="stored">
        <h3>
          What was stored <small>account {account}</small>
        </h3>
        {stored.value ? (
          stored.value.decisions.length ? (
            <ul>
              {stored.value.decisions.map((one) => (
                <li key={one.kind} data-kind={one.kind}>
                  <strong>{KINDS[one.kind] ?? one.kind}</strong>: score {number(one.score_milli / 1_000, 3)}, {one.phase.replace("_", " ").toLowerCase()}
                  {one.reason && `, because of ${one.reason.replaceAll("_", " ")}`}
                  {one.blocked_by.length > 0 && <>; held back: {one.blocked_by.map(blockWords).join(", ")}</>}
                  {one.order_id && (
                    <>
                      ; order <code>{one.order_id}</code>
                    </>
                  )}
                  {Object.keys(one.inputs).length > 0 && (
                    <small>
                      {Object.entries(one.inputs)
                        .map(([name, value]) => `${name.replaceAll("_", " ")} ${number(value, Math.abs(value) < 1 ? 5 : 2)}`)
                        .join(" · ")}
                    </small>
                  )}
                </li>
              ))}
            </ul>
          ) : (
            <p class="empty">No record of this second: nothing was decided in it.</p>
          )
        ) : stored.error === null ? (
          <Waiting what="the stored record" />
        ) : (
          <Absent what="The stored record" error={stored.error} again={stored.again} />
        )}
        {differs && (
          <p class="warning">
            Scanned again the score is {number((recomputed ?? 0) / 1_000, 3)}, the record says {number(differs.score_milli / 1_000, 3)}: it
            was decided with other parameters, or on rows that were mended since.
          </p>
        )}
      </section>
      {explained.value ? (
        <WhyView why={whyOf(explained.value)} head="What made the score" />
      ) : explained.error === null ? (
        <Waiting what="the reasons (28 hours are scanned again)" />
      ) : (
        <Absent what="The reasons" error={explained.error} again={explained.again} />
      )}
    </aside>
  );
}

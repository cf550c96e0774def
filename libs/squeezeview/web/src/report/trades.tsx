// Trades: all in one table, and what kinds of them earned what.

import type { JSX } from "preact";
import { compact, duration, moment, number, percent, usd } from "../components/format";
import { CellBar, Histogram, Scatter } from "../components/plots";
import { DataTable, type Column } from "../components/table";
import type { Breakdown, RunPage, TradeLine } from "./document";

interface Props {
  run: RunPage;
  chosen: TradeLine | null;
  onOpen: (trade: TradeLine) => void;
}

export function tradeColumns(run: RunPage): Column<TradeLine>[] {
  const decimals = new Map(run.series.map((series) => [series.asset, series.price_decimals]));
  const money = (
    head: string,
    value: (trade: TradeLine) => number,
    title: string,
    toned = false,
  ): Column<TradeLine> => ({
    head,
    unit: "USD",
    title,
    value,
    show: (trade) => number(value(trade), 2, toned),
    ...(toned ? { tone: value } : {}),
  });
  const price = (head: string, value: (trade: TradeLine) => number): Column<TradeLine> => ({
    head,
    value,
    show: (trade) => number(value(trade), decimals.get(trade.asset) ?? 2),
  });
  return [
    { head: "#", value: (trade) => trade.number },
    ...(run.assets.length > 1
      ? [{ head: "Asset", left: true, value: (trade: TradeLine) => trade.asset } satisfies Column<TradeLine>]
      : []),
    {
      head: "Side",
      left: true,
      value: (trade) => (trade.direction > 0 ? "long" : "short"),
      show: (trade) => <span class={trade.direction > 0 ? "long" : "short"}>{trade.direction > 0 ? "long" : "short"}</span>,
    },
    { head: "Entry", unit: "UTC", left: true, value: (trade) => trade.entry_ts, show: (trade) => moment(trade.entry_ts) },
    money("Result", (trade) => trade.pnl_usd, "Result after all costs", true),
    {
      head: "Result",
      unit: "%",
      title: "Result as a share of the notional",
      value: (trade) => trade.pnl_share,
      show: (trade) => number(trade.pnl_share * 100, 2, true),
      tone: (trade) => trade.pnl_share,
    },
    { head: "Held", value: (trade) => trade.hold_s, show: (trade) => duration(trade.hold_s) },
    { head: "Left because", left: true, value: (trade) => trade.reason_words || trade.reason },
    { head: "Score", value: (trade) => trade.score, show: (trade) => number(trade.score, 2) },
    { head: "Tier", value: (trade) => trade.tier },
    { head: "Phase", left: true, value: (trade) => trade.phase },
    price("Entry price", (trade) => trade.entry_price),
    price("Exit price", (trade) => trade.exit_price),
    { head: "Notional", unit: "USD", value: (trade) => trade.notional_usd, show: (trade) => number(trade.notional_usd, 0) },
    money("Fees", (trade) => trade.fees_usd, "Fees paid"),
    money("Slippage", (trade) => trade.slippage_usd, "Spread and impact against the price at the decision"),
    money("Funding", (trade) => trade.funding_usd, "Funding received; negative: paid"),
    money("Worst", (trade) => trade.mae_usd, "Worst unrealised result while it was held (MAE)"),
    money("Best", (trade) => trade.mfe_usd, "Best unrealised result while it was held (MFE)"),
  ];
}

export function Trades({ run, chosen, onOpen }: Props): JSX.Element {
  if (run.trades.length === 0) return <p class="empty">No trade was made.</p>;
  return (
    <>
      <p class="hint">
        A click or Enter shows why a trade was taken and left, and moves the charts there. Arrows walk the rows, heads sort.
      </p>
      <DataTable
        label="Trades"
        columns={tradeColumns(run)}
        rows={run.trades}
        keyOf={(trade) => trade.number}
        chosen={chosen?.number ?? null}
        onOpen={onOpen}
      />
    </>
  );
}

export function TradePictures({ run, onOpen }: { run: RunPage; onOpen: (trade: TradeLine) => void }): JSX.Element {
  const { trades } = run;
  return (
    <div class="columns wide">
      <figure>
        <figcaption>
          Results of trades <small>after costs</small>
        </figcaption>
        <Histogram
          label={`Histogram of ${trades.length} trades' results in USD`}
          values={trades.map((trade) => trade.pnl_usd)}
          axis={(value) => (Math.abs(value) < 1e5 ? number(value) : compact(value))}
          unit="USD"
          count="trades"
          signed
        />
      </figure>
      <figure>
        <figcaption>
          How far it went against, how it ended{" "}
          <small>
            <span class="good">○ won</span> <span class="bad">× lost</span>
          </small>
        </figcaption>
        <Scatter
          label="Worst unrealised result against the final result of each trade, in USD"
          dots={trades.map((trade) => ({
            key: trade.number,
            x: trade.mae_usd,
            y: trade.pnl_usd,
            good: trade.pnl_usd > 0,
            title: `Trade ${trade.number}: worst ${usd(trade.mae_usd, true)}, result ${usd(trade.pnl_usd, true)}`,
          }))}
          xUnit="worst unrealised (MAE), USD"
          yUnit="result, USD"
          axis={(value) => (Math.abs(value) < 1e5 ? number(value) : compact(value))}
          onPick={(key) => onOpen(trades.find((trade) => trade.number === key)!)}
        />
      </figure>
      <figure>
        <figcaption>
          How far it went in favour, how it ended{" "}
          <small>
            <span class="good">○ won</span> <span class="bad">× lost</span>
          </small>
        </figcaption>
        <Scatter
          label="Best unrealised result against the final result of each trade, in USD"
          dots={trades.map((trade) => ({
            key: trade.number,
            x: trade.mfe_usd,
            y: trade.pnl_usd,
            good: trade.pnl_usd > 0,
            title: `Trade ${trade.number}: best ${usd(trade.mfe_usd, true)}, result ${usd(trade.pnl_usd, true)}`,
          }))}
          xUnit="best unrealised (MFE), USD"
          yUnit="result, USD"
          axis={(value) => (Math.abs(value) < 1e5 ? number(value) : compact(value))}
          onPick={(key) => onOpen(trades.find((trade) => trade.number === key)!)}
        />
      </figure>
    </div>
  );
}

export function Breakdowns({ breakdowns }: { breakdowns: Breakdown[] }): JSX.Element {
  return (
    <div class="columns stacked">
      {breakdowns.map((breakdown) => {
        const most = Math.max(...breakdown.lines.map((line) => Math.abs(line.pnl_usd)), 0);
        return (
          <table key={breakdown.title} class="breakdown">
            <caption>{breakdown.title}</caption>
            <thead>
              <tr>
                <th scope="col" class="left">
                  <span class="hidden">{breakdown.title}</span>
                </th>
                <th scope="col">Trades</th>
                <th scope="col">Won</th>
                <th scope="col">
                  Result <small>USD</small>
                </th>
                <th scope="col">
                  <span class="hidden">Result drawn</span>
                </th>
                <th scope="col">
                  Mean <small>USD</small>
                </th>
                <th scope="col">
                  Costs <small>USD</small>
                </th>
              </tr>
            </thead>
            <tbody>
              {breakdown.lines.map((line) => (
                <tr key={line.label}>
                  <th scope="row">{line.label}</th>
                  <td>{line.trades}</td>
                  <td>{line.trades ? percent(line.wins / line.trades, 0) : "–"}</td>
                  <td class={line.pnl_usd > 0 ? "good" : line.pnl_usd < 0 ? "bad" : ""}>{number(line.pnl_usd, 0, true)}</td>
                  <td class="barbox">
                    <CellBar value={line.pnl_usd} most={most} />
                  </td>
                  <td>{number(line.pnl_mean_usd, 1, true)}</td>
                  <td>{number(line.costs_usd, 0)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        );
      })}
    </div>
  );
}

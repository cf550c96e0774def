// The page: verdict first, then what can be looked at, then what it rests on.

import type { ComponentChildren, JSX } from "preact";
import { useCallback, useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { Chart } from "../components/chart";
import { day, duration, number } from "../components/format";
import { ChartGroup } from "../components/group";
import { Linked } from "../components/linked";
import type { Columns } from "../components/packs";
import { calm, setTheme, theme, type Theme } from "../components/theme";
import { Compare } from "./compare";
import type { AssetSeries, Page, RunPage, TradeLine } from "./document";
import { registry } from "./hooks";
import { equitySpecs, marketSpecs, MarketSource, StillSource, type Scene } from "./market";
import { Costs, Months, Placebos, QualityView, Receipt } from "./sections";
import { Breakdowns, TradePictures, Trades } from "./trades";
import { Figures, Headline, VerdictView } from "./verdict";
import { TradePanel } from "./why";

export interface Unpacked {
  equity: Columns;
  base: Columns[]; // by series
}

interface Props {
  page: Page;
  first: Unpacked[]; // by run
  readSeconds: (series: AssetSeries) => Promise<Columns>;
}

const SECTIONS: [string, string][] = [
  ["charts", "Charts"],
  ["trades", "Trades"],
  ["breakdowns", "Breakdowns"],
  ["costs", "Costs"],
  ["luck", "Luck"],
  ["figures", "Figures"],
  ["data", "Data"],
  ["receipt", "Receipt"],
];

export function App({ page, first, readSeconds }: Props): JSX.Element {
  const [index, setIndex] = useState(0);
  const [mode, setMode] = useState<Theme>(theme);
  const small = useMemo(() => matchMedia("(max-width: 640px)").matches, []);
  const several = page.runs.length > 1;
  const run = page.runs[index];
  const equities = useMemo(() => first.map((one) => one.equity), [first]);

  const flip = (): void => {
    const next = mode === "dark" ? "light" : "dark";
    setTheme(next);
    setMode(next);
  };

  return (
    <>
      <a class="skip" href="#main">
        Skip to the verdict
      </a>
      <header class="title">
        <h1>{page.title}</h1>
        {!several && <Span run={run} brief={page.title.includes(day(run.start_s))} />}
        <nav aria-label="Sections">
          {several && <a href="#compare">Side by side</a>}
          {SECTIONS.map(([id, name]) => (
            <a key={id} href={`#${id}`}>
              {name}
            </a>
          ))}
        </nav>
        <button type="button" class="theme" aria-label={`Switch to ${mode === "dark" ? "light" : "dark"}`} onClick={flip}>
          {mode === "dark" ? "☀" : "☾"}
        </button>
      </header>
      <main id="main" tabIndex={-1}>
        {several && <Compare runs={page.runs} equities={equities} comparison={page.comparison} small={small} />}
        {several && (
          <div class="runs" role="group" aria-label="Run shown below">
            {page.runs.map((one, at) => (
              <button key={one.run_id} type="button" aria-pressed={at === index} onClick={() => setIndex(at)}>
                <i class={`swatch c-run${at % 6}`} />
                {one.name}
              </button>
            ))}
          </div>
        )}
        {several && (
          <p class="runspan">
            <Span run={run} />
          </p>
        )}
        <Run key={index} run={run} unpacked={first[index]} readSeconds={readSeconds} small={small} />
      </main>
      <footer>
        All times are UTC. Drawn with uPlot (MIT) and Preact (MIT); their notices stand in this file's script. Nothing was loaded
        from anywhere.
      </footer>
    </>
  );
}

function Span({ run, brief = false }: { run: RunPage; brief?: boolean }): JSX.Element {
  return (
    <span class="span">
      <code>{run.run_id.slice(0, 12)}</code>{" "}
      {brief ? "UTC" : `${run.assets.join(", ")} · ${day(run.start_s)} to ${day(run.end_s - 1)} UTC`}
    </span>
  );
}

function Section(props: { id: string; title: string; children: ComponentChildren }): JSX.Element {
  return (
    <section id={props.id} aria-labelledby={`${props.id}-title`}>
      <h2 id={`${props.id}-title`}>{props.title}</h2>
      {props.children}
    </section>
  );
}

/** How finely the charts know the run; whoever zooms in should not take a coarse row for a calm market. */
function drawnFrom(run: RunPage, series: AssetSeries | undefined): string {
  if (!series) return "";
  const fives = run.trades.filter((trade) => trade.detail_s > 1).length;
  const near = fives > 0 ? `, of 5 s around those of the ${number(fives)} smaller trades` : "";
  return run.trades.length > 0
    ? `Drawn from rows of ${duration(series.step_s)}${series.step_s > 60 ? ", of a minute near trades" : ""}; closer than 8 h from seconds around entries and exits${near}.`
    : `Drawn from rows of ${duration(series.step_s)}.`;
}

interface RunProps {
  run: RunPage;
  unpacked: Unpacked;
  readSeconds: (series: AssetSeries) => Promise<Columns>;
  small: boolean;
}

function Run({ run, unpacked, readSeconds, small }: RunProps): JSX.Element {
  const [assetIndex, setAssetIndex] = useState(0);
  const [chosen, setChosen] = useState<TradeLine | null>(null);
  const scene = useRef<Scene>({ run, asset: run.series[0], chosen: null });
  const drawn = useRef<Chart[]>([]);
  const section = useRef<HTMLDivElement>(null);
  const linked = useMemo(() => new Linked({ from: run.start_s, to: run.end_s }), [run]);

  const open = useCallback(
    (trade: TradeLine | null): void => {
      setChosen(trade);
      scene.current.chosen = trade;
      for (const chart of drawn.current) chart.repaint();
      if (!trade) return;
      const at = run.series.findIndex((series) => series.asset === trade.asset);
      if (at >= 0) setAssetIndex(at);
      const around = Math.max(300, (trade.exit_ts - trade.entry_ts) * 0.25);
      linked.moveTo(trade.entry_ts - around, trade.exit_ts + around);
      linked.point(trade.entry_ts);
      const place = (small ? document.getElementById("chart-price") : null) ?? section.current;
      place?.scrollIntoView({ behavior: calm() ? "auto" : "smooth", block: "start" });
    },
    [run, linked, small],
  );

  const panes = useMemo(() => {
    const equity = new StillSource(unpacked.equity);
    const lower = equitySpecs(() => scene.current, small).map((spec) => ({ spec, source: equity }));
    const series = run.series.at(assetIndex);
    if (!series) return lower;
    scene.current.asset = series;
    const source = new MarketSource(
      unpacked.base[assetIndex],
      series.step_s,
      () => readSeconds(series),
      () => linked.tell("data"),
    );
    const upper = marketSpecs(() => scene.current, open, small).map((spec) => ({ spec, source }));
    return [...upper, ...lower];
  }, [run, unpacked, assetIndex, small, linked, open, readSeconds]);

  useEffect(() => {
    registry.choose = (number) => open(run.trades.find((trade) => trade.number === number) ?? null);
  }, [run, open]);

  const step = (by: number): void => {
    const at = run.trades.findIndex((trade) => trade.number === chosen?.number);
    const next = run.trades.at(Math.min(run.trades.length - 1, Math.max(0, at + by)));
    if (next) open(next);
  };
  const close = (): void => {
    const number = chosen?.number;
    open(null);
    document.querySelector<HTMLElement>(`#trades tr[data-key="${number}"]`)?.focus();
  };

  return (
    <>
      {run.warnings.length > 0 && (
        <ul class="warnings">
          {run.warnings.map((text) => (
            <li key={text} class="warning">
              {text}
            </li>
          ))}
        </ul>
      )}
      <div class="first">
        <VerdictView verdict={run.verdict} />
        <Headline run={run} />
      </div>
      <Section id="charts" title="Charts">
        <div ref={section} class={chosen ? "stage chosen" : "stage"}>
          <ChartGroup
            label="Charts of price, flow, open interest, score and equity, linked in time"
            linked={linked}
            panes={panes}
            note={drawnFrom(run, run.series.at(assetIndex))}
            onCharts={(charts) => {
              drawn.current = charts;
              registry.groups.set("run", { linked, charts });
            }}
          >
            {run.series.length > 1 && (
              <span class="buttons" role="group" aria-label="Asset">
                {run.series.map((series, at) => (
                  <button key={series.asset} type="button" aria-pressed={at === assetIndex} onClick={() => setAssetIndex(at)}>
                    {series.asset}
                  </button>
                ))}
              </span>
            )}
            {run.trades.length > 0 && (
              <span class="buttons" role="group" aria-label="Trades">
                <button type="button" onClick={() => step(-1)} aria-label="Trade before">
                  ← trade
                </button>
                <button type="button" onClick={() => step(1)} aria-label="Trade after">
                  trade →
                </button>
              </span>
            )}
          </ChartGroup>
          {chosen && (
            <TradePanel
              trade={chosen}
              decimals={run.series.find((series) => series.asset === chosen.asset)?.price_decimals ?? 2}
              onStep={step}
              onClose={close}
            />
          )}
        </div>
      </Section>
      <Section id="trades" title={`Trades (${run.trades.length})`}>
        {run.trades.length > 0 && <TradePictures run={run} onOpen={open} />}
        <Trades run={run} chosen={chosen} onOpen={open} />
      </Section>
      <Section id="months" title="Monthly returns">
        <Months months={run.months} />
      </Section>
      <Section id="breakdowns" title="Where it was earned and lost">
        {run.trades.length > 0 ? <Breakdowns breakdowns={run.breakdowns} /> : <p class="empty">No trade, nothing to divide.</p>}
      </Section>
      <Section id="costs" title="Costs">
        <Costs run={run} stress={run.stress} />
      </Section>
      <Section id="luck" title="How much could be luck">
        <Placebos placebos={run.placebos} />
      </Section>
      <Section id="figures" title="All figures">
        <Figures groups={run.groups} />
      </Section>
      <Section id="data" title="Data quality">
        {run.quality.map((quality) => (
          <QualityView key={quality.asset} quality={quality} />
        ))}
      </Section>
      <Section id="receipt" title="Receipt">
        <Receipt lines={run.receipt} />
      </Section>
    </>
  );
}

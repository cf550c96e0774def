// Runs side by side: what was asked differently, what came out differently, and by which trades.

import type { JSX } from "preact";
import { useMemo } from "preact/hooks";
import { moment, number } from "../components/format";
import { ChartGroup } from "../components/group";
import { Linked } from "../components/linked";
import { DataTable, type Column } from "../components/table";
import type { Columns } from "../components/packs";
import type { Comparison, Difference, Figure, RunPage } from "./document";
import { registry } from "./hooks";
import { overlaid, overlaidSpec, StillSource } from "./market";
import { Reach, show } from "./verdict";

interface Props {
  runs: RunPage[];
  equities: Columns[];
  comparison: Comparison | null;
  small: boolean;
}

export function Compare({ runs, equities, comparison, small }: Props): JSX.Element {
  const joint = useMemo(() => {
    const linked = new Linked({
      from: Math.min(...runs.map((run) => run.start_s)),
      to: Math.max(...runs.map((run) => run.end_s)),
    });
    return {
      linked,
      panes: [{ spec: overlaidSpec(runs, small), source: new StillSource(overlaid(runs, equities)) }],
    };
  }, [runs, equities, small]);
  return (
    <>
      <section aria-labelledby="overlaid-title" id="compare">
        <h2 id="overlaid-title">Equity of all runs</h2>
        <ChartGroup
          label="Equity of all runs"
          linked={joint.linked}
          panes={joint.panes}
          onCharts={(charts) => registry.groups.set("compare", { linked: joint.linked, charts })}
        />
      </section>
      {comparison && (
          <section aria-labelledby="asked">
            <h2 id="asked">What was asked differently</h2>
            {comparison.spec.length === 0 ? (
              <p class="empty">Nothing: the runs differ in their data or in the code only.</p>
            ) : (
              <div class="scroll" role="region" aria-label="Differences of the specs" tabIndex={0}>
                <table class="figures">
                  <caption class="hidden">Differences of the specs</caption>
                  <RunHeads runs={runs} first="Field" />
                  <tbody>
                    {comparison.spec.map(([field, values]) => (
                      <tr key={field}>
                        <th scope="row">
                          <code>{field}</code>
                        </th>
                        {values.map((value, index) => (
                          <td key={index}>{value}</td>
                        ))}
                      </tr>
                    ))}
                  </tbody>
                </table>
              </div>
            )}
          </section>
      )}
      <section aria-labelledby="side">
        <h2 id="side">Side by side</h2>
        <SideBySide runs={runs} />
      </section>
      {comparison && (
          <section aria-labelledby="differ">
            <h2 id="differ">Which trades differ, and why</h2>
            <p>
              {number(comparison.shared)} trades were made alike by all runs; {number(comparison.differences.length)} were not.
            </p>
            {comparison.differences.length > 0 && (
              <DataTable
                label="Trades that differ"
                columns={differenceColumns(runs)}
                rows={comparison.differences}
                keyOf={(line) => `${line.asset} ${line.entry_ts} ${line.direction}`}
                most={50}
              />
            )}
          </section>
      )}
    </>
  );
}

function RunHeads({ runs, first }: { runs: RunPage[]; first: string }): JSX.Element {
  return (
    <thead>
      <tr>
        <th scope="col" class="left">
          {first}
        </th>
        {runs.map((run, index) => (
          <th scope="col" key={run.run_id}>
            <i class={`swatch c-run${index % 6}`} />
            {run.name}
          </th>
        ))}
      </tr>
    </thead>
  );
}

function SideBySide({ runs }: { runs: RunPage[] }): JSX.Element {
  const blocks: { title: string; figures: (run: RunPage) => Figure[] }[] = [
    { title: "Headline", figures: (run) => run.headline },
    ...[...new Set(runs.flatMap((run) => run.groups.map((group) => group.title)))].map((title) => ({
      title,
      figures: (run: RunPage) => run.groups.find((group) => group.title === title)?.figures ?? [],
    })),
  ];
  const seen = new Set<string>();
  return (
    <div class="scroll" role="region" aria-label="Figures side by side" tabIndex={0}>
      <table class="figures sides">
        <caption class="hidden">Figures of all runs, side by side</caption>
        <RunHeads runs={runs} first="" />
        <tbody>
          <tr>
            <th scope="row">Verdict</th>
            {runs.map((run) => (
              <td key={run.run_id}>
                <strong class={run.verdict.word === "edge" ? (run.verdict.provisional ? "" : "good") : run.verdict.word === "no edge" ? "bad" : ""}>
                  {run.verdict.word}
                </strong>
                {run.verdict.provisional && <small>provisional</small>}
              </td>
            ))}
          </tr>
          {blocks.flatMap(({ title, figures }) => {
            const labels = new Map(runs.flatMap((run) => figures(run).map((one): [string, Figure] => [one.name, one])));
            const fresh = [...labels].filter(([name]) => !seen.has(name));
            fresh.forEach(([name]) => seen.add(name));
            if (fresh.length === 0) return [];
            return [
              <tr key={title} class="group">
                <th scope="rowgroup" colSpan={runs.length + 1}>
                  {title}
                </th>
              </tr>,
              ...fresh.map(([name, one]) => (
                <tr key={name}>
                  <th scope="row" title={one.note}>
                    {one.label}
                  </th>
                  {runs.map((run) => {
                    const figure = figures(run).find((each) => each.name === name);
                    return (
                      <td key={run.run_id}>
                        {figure ? show(figure) : "–"}
                        {figure && <Reach figure={figure} />}
                      </td>
                    );
                  })}
                </tr>
              )),
            ];
          })}
        </tbody>
      </table>
    </div>
  );
}

function differenceColumns(runs: RunPage[]): Column<Difference>[] {
  return [
    { head: "Entry", unit: "UTC", left: true, value: (line) => line.entry_ts, show: (line) => moment(line.entry_ts) },
    { head: "Asset", left: true, value: (line) => line.asset },
    {
      head: "Side",
      left: true,
      value: (line) => (line.direction > 0 ? "long" : "short"),
      show: (line) => <span class={line.direction > 0 ? "long" : "short"}>{line.direction > 0 ? "long" : "short"}</span>,
    },
    ...runs.map(
      (run, index): Column<Difference> => ({
        head: run.name,
        unit: "USD",
        value: (line) => line.pnl_usd[index],
        show: (line) => (line.pnl_usd[index] === null ? "not taken" : number(line.pnl_usd[index], 2, true)),
        tone: (line) => line.pnl_usd[index] ?? 0,
      }),
    ),
    { head: "Why", left: true, value: (line) => line.why, show: (line) => <span class="words">{line.why}</span> },
  ];
}

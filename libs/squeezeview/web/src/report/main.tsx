// The page's entry: unpack the document, draw it, and say so in words where that fails.

import "uplot/dist/uPlot.min.css";
import "../styles/base.css";
import "../styles/charts.css";
import "../styles/report.css";
import { render } from "preact";
import { fromBase64, inflate, unpack, type Columns, type Pack } from "../components/packs";
import { App, type Unpacked } from "./app";
import { FORMAT, type AssetSeries, type Page } from "./document";
import { registry } from "./hooks";

window.squeezeflow = registry;

function block(name: string): string {
  const found = document.getElementById(name)?.textContent;
  if (!found) throw new Error(`the file's part “${name}” is missing: was it cut when it was sent?`);
  return found;
}

const read = (pack: Pack): Promise<Columns> =>
  unpack(pack.count === 0 ? pack : { ...pack, data: block(`pack-${pack.data.slice(1)}`) });

async function open(): Promise<void> {
  if (!("DecompressionStream" in window)) {
    throw new Error("this browser has no DecompressionStream: Chrome 80, Firefox 113 or Safari 16.4 and newer have it");
  }
  const page = JSON.parse(new TextDecoder().decode(await inflate(fromBase64(block("document"))))) as Page;
  if (page.format !== FORMAT) {
    throw new Error(`the document's format is ${page.format}, this page reads ${FORMAT}: render it with the version it came from`);
  }
  const first: Unpacked[] = await Promise.all(
    page.runs.map(async (run) => ({
      equity: await read(run.equity),
      base: await Promise.all(run.series.map((series) => read(series.base))),
    })),
  );
  const readSeconds = (series: AssetSeries): Promise<Columns> => read(series.seconds);
  const host = document.getElementById("page")!;
  host.replaceChildren();
  render(<App page={page} first={first} readSeconds={readSeconds} />, host);
  requestAnimationFrame(() =>
    requestAnimationFrame(() => {
      registry.ready = true;
      host.dataset.ready = "true"; // what a test can wait for under this page's policy, which allows no eval
    }),
  );
}

open().catch((error: unknown) => {
  const host = document.getElementById("page")!;
  host.textContent = `The report could not be opened: ${error instanceof Error ? error.message : String(error)}`;
  throw error;
});

// The dashboard's entry: one page, told apart by what stands behind the #, on the stream of all assets or of one.

import "uplot/dist/uPlot.min.css";
import "../styles/base.css";
import "../styles/charts.css";
import "../styles/report.css";
import "../styles/live.css";
import type { JSX } from "preact";
import { render } from "preact";
import { useEffect, useMemo, useState } from "preact/hooks";
import { setTheme, theme, type Theme } from "../components/theme";
import { ask } from "./api";
import { AssetPage } from "./asset";
import { hooks } from "./hooks";
import { Overview, type Sparks } from "./overview";
import { QualityPage } from "./quality";
import { RunsPage } from "./runs";
import { dialog, Dialog, line, LineState, now, seconds, TokenDialog } from "./shared";
import { useWatched, Watched } from "./store";
import { Stream } from "./stream";
import { Trading } from "./trading";
import { BOARD_NAMES, boardRow, type Board, type Maybe } from "./types";

(window as unknown as { squeezeflow: typeof hooks }).squeezeflow = hooks;

const PAGES = [
  ["", "Overview"],
  ["trading", "Trading"],
  ["quality", "Data quality"],
  ["runs", "Backtests"],
] as const;

interface Place {
  page: string;
  asset: string;
}

function place(): Place {
  const [page = "", asset = ""] = location.hash.replace(/^#\/?/, "").split("/");
  return { page, asset: decodeURIComponent(asset) };
}

const board = new Watched<Board | null>(null);
const sparks = new Watched<Sparks>({});
const account = new Watched("paper");
const accounts = new Watched<string[]>([]);
const go = (hash: string): void => void (location.hash = hash);
const openAsset = (asset: string): void => go(`#/asset/${encodeURIComponent(asset)}`);

/** Follow the board: its names first, then a line of each asset a second. */
function followBoard(): () => void {
  let names = BOARD_NAMES;
  line.set({ state: "connecting" });
  const take = (ts: number, lines: unknown[][]): void => {
    const rows = lines.map((values) => boardRow(names, values));
    board.set({ ts, rows });
    now.set(ts);
  };
  const stream = new Stream(
    "/v1/stream",
    (told) => {
      if (told.name === "schema") {
        const said = JSON.parse(told.data) as string[] | { names?: string[] };
        names = Array.isArray(said) ? said : (said.names ?? names);
      } else if (told.name === "gap") stream.seconds.skip((JSON.parse(told.data) as { to: number }).to);
      else if (told.name === "board") {
        const said = JSON.parse(told.data) as { ts: number; assets: unknown[][] };
        if (!stream.seconds.take(said.ts)) return;
        take(said.ts, said.assets);
        keepSparks(said.ts, board.get()!);
      }
    },
    (state) => line.set(state),
  );
  seconds.set(stream.seconds);
  hooks.stream = stream;
  void ask<{ ts: number | null; names?: string[]; assets: unknown[][]; sparks?: Sparks; account?: string }>("/v1/board").then(
    (said) => {
      if (said.sparks) sparks.set(said.sparks);
      if (said.account) account.set(said.account);
      sparkMinute = said.ts === null ? 0 : Math.floor(said.ts / 60);
    },
    () => undefined, // the stream says the same a second later; only the hour before is not drawn
  );
  return () => stream.close();
}

let sparkMinute = 0;

/** Each minute's largest score, signed by its direction. */
function keepSparks(ts: number, { rows }: Board): void {
  const minute = Math.floor(ts / 60);
  const fresh = minute > sparkMinute;
  const before = sparks.get();
  const after: Sparks = {};
  for (const row of rows) {
    const score: Maybe = row.score === null ? null : Math.abs(row.score) * row.direction;
    const held = before[row.asset] ?? [];
    if (fresh || held.length === 0) after[row.asset] = [...held.slice(-59), score];
    else {
      const last = held[held.length - 1];
      after[row.asset] = score !== null && Math.abs(score) > Math.abs(last ?? 0) ? [...held.slice(0, -1), score] : held;
    }
  }
  sparkMinute = Math.max(minute, sparkMinute);
  sparks.set(after);
}

function App(): JSX.Element {
  const [at, setAt] = useState(place);
  const [mode, setMode] = useState<Theme>(theme());
  const [small, setSmall] = useState(innerWidth < 641);
  const modal = useWatched(dialog);
  const listed = useWatched(accounts);
  const isAsset = at.page === "asset" && at.asset !== "";
  useEffect(() => {
    const moved = (): void => {
      dialog.set(null);
      setAt(place());
      scrollTo(0, 0);
    };
    const resized = (): void => setSmall(innerWidth < 641);
    addEventListener("hashchange", moved);
    addEventListener("resize", resized);
    void ask<string[]>("/v1/accounts").then(
      (names) => {
        accounts.set(names);
        if (names.length && !names.includes(account.get())) account.set(names[0]);
      },
      () => undefined, // the usual one is shown, and says itself what is not there
    );
    return () => {
      removeEventListener("hashchange", moved);
      removeEventListener("resize", resized);
    };
  }, []);
  useEffect(() => (isAsset ? undefined : followBoard()), [isAsset]);
  useEffect(() => {
    hooks.group = null;
    document.title = `${isAsset ? at.asset : (PAGES.find(([page]) => page === at.page)?.[1] ?? "Not found")} · SqueezeFlow`;
    document.getElementById("page")!.dataset.ready = at.page || "overview";
    hooks.ready = true;
  }, [at, isAsset]);
  useEffect(() => {
    const hear = (event: KeyboardEvent): void => {
      const typing = event.target instanceof Element && event.target.closest("input, textarea, select, dialog");
      if (event.key === "?" && !typing) dialog.set(<Help />);
    };
    addEventListener("keydown", hear);
    return () => removeEventListener("keydown", hear);
  }, []);
  const flip = (): void => {
    const next = mode === "dark" ? "light" : "dark";
    setTheme(next);
    setMode(next);
  };
  const page = useMemo(() => {
    if (isAsset) return <AssetPage key={at.asset} asset={at.asset} account={account} small={small} onBack={() => go("#/")} />;
    if (at.page === "trading") return <Trading account={account} accounts={listed} onOpen={openAsset} small={small} />;
    if (at.page === "quality") return <QualityPage />;
    if (at.page === "runs") return <RunsPage />;
    if (at.page === "") return <Overview board={board} sparks={sparks} onOpen={openAsset} />;
    return (
      <p class="empty">
        There is no page “{at.page}”. <a href="#/">To the overview</a>
      </p>
    );
  }, [at, isAsset, small, listed]);
  return (
    <>
      <a class="skip" href="#main" onClick={(event) => {
        event.preventDefault(); // what stands behind the # is the page
        document.getElementById("main")?.focus();
      }}>
        Skip to the content
      </a>
      <header class="title live">
        <h1>SqueezeFlow</h1>
        <nav aria-label="Pages">
          {PAGES.map(([name, title]) => (
            <a key={name} href={`#/${name}`} aria-current={at.page === name || (name === "" && isAsset) ? "page" : undefined}>
              {title}
            </a>
          ))}
        </nav>
        <LineState />
        <span class="tools">
          <button type="button" onClick={() => dialog.set(<TokenDialog />)}>
            Token
          </button>
          <button type="button" class="theme" aria-label={`Switch to ${mode === "dark" ? "light" : "dark"}`} onClick={flip}>
            {mode === "dark" ? "☀" : "☾"}
          </button>
          <button type="button" class="theme" aria-label="Keys and words" onClick={() => dialog.set(<Help />)}>
            ?
          </button>
        </span>
      </header>
      <main id="main" tabIndex={-1}>
        {page}
      </main>
      <footer>
        All times are UTC. Drawn with uPlot (MIT) and Preact (MIT); their notices stand in the script. Nothing is asked of any other server.
      </footer>
      {modal}
    </>
  );
}

function Help(): JSX.Element {
  const keys: [string, string][] = [
    ["/", "search an asset"],
    ["↑ ↓ Enter", "walk through a table, open a line"],
    ["← → + − 0", "in charts: move, zoom, show everything"],
    ["Shift ← →", "in charts: move the crosshair"],
    ["a", "in charts: begin the CVD at the crosshair"],
    ["Esc", "close what is open"],
  ];
  return (
    <Dialog title="Keys and words">
      <dl class="keylist">
        {keys.map(([key, text]) => (
          <div key={key}>
            <dt>
              <kbd>{key}</kbd>
            </dt>
            <dd>{text}</dd>
          </div>
        ))}
      </dl>
      <p>
        <b>Swings</b>: a flow divided by what it typically moves in such a window. <b>CVD</b>: what takers bought more than they sold, summed
        from an anchor; only changes mean something. <b>Reset A, B</b>: an imbalance that is exhausted, or was shaken out.{" "}
        <b>Shorts trapped</b> (▲): spot bought what perp traders sold. Times are UTC, a row covers the second that begins with it.
      </p>
    </Dialog>
  );
}

const host = document.getElementById("page")!;
host.replaceChildren();
render(<App />, host);

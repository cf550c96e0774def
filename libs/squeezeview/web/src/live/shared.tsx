// What all pages of the dashboard share: the time of the data, the line's state, words for what is not there, dialogs.

import type { ComponentChildren, JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { clock, day, duration, moment } from "../components/format";
import { ask, hasToken, Refusal, setToken, words } from "./api";
import { useWatched, Watched } from "./store";
import type { Line, Seconds } from "./stream";
import type { Instrument } from "./types";

export const now = new Watched(0); // s, UTC, the newest second that was received; 0: none yet
export const line = new Watched<Line>({ state: "connecting" });
export const seconds = new Watched<Seconds | null>(null);
export const dialog = new Watched<JSX.Element | null>(null);

/** The newest second of the data; before there is one, of this machine's clock. */
export const present = (): number => now.get() || Math.floor(Date.now() / 1_000);

/** A time of the last day as a clock, another with its day; UTC stands in the column's head. */
export function lately(ts: number): string {
  const today = day(present());
  return day(ts) === today ? clock(ts) : moment(ts);
}

const WAIT_MS = 3_000;

/** The newest second of the data, once it is known; where no stream tells it for some seconds, this machine's clock. */
export function useNow(): number | null {
  const ts = useWatched(now);
  const [waited, setWaited] = useState(false);
  useEffect(() => {
    const timer = setTimeout(() => setWaited(true), WAIT_MS);
    return () => clearTimeout(timer);
  }, []);
  return ts || (waited ? present() : null);
}

let instruments: Promise<Record<string, Instrument>> | null = null;

/** The instruments with their scales, asked for once. */
export function known(): Promise<Record<string, Instrument>> {
  instruments ??= ask<Record<string, Omit<Instrument, "id">>>("/v1/instruments").then(
    (found) => Object.fromEntries(Object.entries(found).map(([id, one]) => [id, { ...one, id }])),
    (error: unknown) => {
      instruments = null;
      throw error;
    },
  );
  return instruments;
}

/** Whether the page is connected, up to which second, and since when it is not. */
export function LineState(): JSX.Element {
  const state = useWatched(line);
  const ts = useWatched(now);
  const taken = useWatched(seconds);
  const [, again] = useState(0);
  const heard = useRef({ ts: 0, at: 0 });
  if (heard.current.ts !== ts) heard.current = { ts, at: performance.now() };
  useEffect(() => {
    const timer = setInterval(() => again((n) => n + 1), 1_000);
    return () => clearInterval(timer);
  }, []);
  const silent = ts ? Math.floor((performance.now() - heard.current.at) / 1_000) : 0;
  const lost = taken?.missing.length ?? 0;
  let tone = "on";
  let text = "live";
  if (state.state === "connecting") [tone, text] = ["off", "connecting …"];
  else if (state.state === "lost") {
    const since = Math.floor(state.since / 1_000);
    [tone, text] = ["lost", `reconnecting since ${clock(since)} UTC: ${state.why}`];
  } else if (silent >= 5) [tone, text] = ["late", `no update for ${duration(silent)}`];
  return (
    <span class={`line ${tone}`} role="status" aria-live={tone === "on" ? "off" : "polite"}>
      <span class="words">
        <i aria-hidden="true" />
        {text}
      </span>
      <span class="clock" aria-live="off">
        {ts ? `${clock(ts)} UTC` : ""}
      </span>
      {lost > 0 && <span class="bad">{lost} seconds missing</span>}
    </span>
  );
}

export function Waiting({ what }: { what: string }): JSX.Element {
  return (
    <p class="waiting" role="status">
      Loading {what} …
    </p>
  );
}

/** Something that is not there, said in words, with what to do. */
export function Absent(props: { what: string; error: unknown; again?: () => void }): JSX.Element {
  const status = props.error instanceof Refusal ? props.error.status : 0;
  const hint =
    status === 401 || status === 403
      ? "This needs a token with the right role: press “Token” above."
      : status === 502 || status === 503 || status === 504
        ? "The service behind it is not there; it is asked again."
        : status === 0
          ? "It is asked again."
          : "";
  return (
    <div class="absent" role="alert">
      <p>
        <strong>{props.what} cannot be shown</strong>: {words(props.error)}. {hint}
      </p>
      {props.again && (
        <button type="button" onClick={props.again}>
          Ask again
        </button>
      )}
    </div>
  );
}

export interface Answer<T> {
  value: T | null;
  error: unknown;
  again: () => void;
}

/** Ask a path now and every so many seconds; the last value stays while a later question fails. */
export function useAsked<T>(path: string | null, everyS = 0): Answer<T> {
  const [state, setState] = useState<{ path: string | null; value: T | null; error: unknown }>({ path, value: null, error: null });
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    if (path === null) return;
    const stop = new AbortController();
    let timer = 0;
    const once = async (): Promise<void> => {
      try {
        const value = await ask<T>(path, stop.signal);
        if (stop.signal.aborted) return;
        setState({ path, value, error: null });
        if (everyS) timer = window.setTimeout(() => void once(), everyS * 1_000);
      } catch (error) {
        if (stop.signal.aborted) return;
        setState((before) => ({ path, value: before.path === path ? before.value : null, error }));
        timer = window.setTimeout(() => void once(), Math.max(5, everyS) * 1_000);
      }
    };
    void once();
    return () => {
      stop.abort();
      clearTimeout(timer);
    };
  }, [path, everyS, turn]);
  const mine = state.path === path;
  return { value: mine ? state.value : null, error: mine ? state.error : null, again: () => setTurn((n) => n + 1) };
}

/** A modal dialog: the browser keeps the keyboard in it, Escape closes it. */
export function Dialog(props: { title: string; onClose?: () => void; children: ComponentChildren }): JSX.Element {
  const element = useRef<HTMLDialogElement>(null);
  const back = useRef<Element | null>(null);
  useEffect(() => {
    back.current = document.activeElement;
    element.current!.showModal();
    return () => {
      if (back.current instanceof HTMLElement && back.current.isConnected) back.current.focus();
    };
  }, []);
  const close = (): void => {
    dialog.set(null);
    props.onClose?.();
  };
  return (
    <dialog ref={element} aria-label={props.title} onCancel={close} onClose={close}>
      <header>
        <h2>{props.title}</h2>
        <button type="button" aria-label="Close" onClick={close}>
          ✕
        </button>
      </header>
      {props.children}
    </dialog>
  );
}

/** Where a token is typed: it stays in memory, or in this tab's storage when one says so, and is never in an address. */
export function TokenFields(props: { value: string; keep: boolean; onChange: (value: string, keep: boolean) => void }): JSX.Element {
  return (
    <>
      <label class="field">
        <span>Token</span>
        <input
          type="password"
          name="token"
          autocomplete="off"
          spellcheck={false}
          value={props.value}
          placeholder={hasToken() ? "the one given before" : ""}
          onInput={(event) => props.onChange(event.currentTarget.value, props.keep)}
        />
      </label>
      <label class="check">
        <input type="checkbox" checked={props.keep} onChange={(event) => props.onChange(props.value, event.currentTarget.checked)} /> keep it
        until this tab is closed
      </label>
    </>
  );
}

export function TokenDialog(props: { why?: string; onGiven?: () => void }): JSX.Element {
  const [value, setValue] = useState("");
  const [keep, setKeep] = useState(false);
  return (
    <Dialog title="Token">
      <form
        onSubmit={(event) => {
          event.preventDefault();
          setToken(value, keep);
          dialog.set(null);
          props.onGiven?.();
        }}
      >
        <p>{props.why ?? "Writes need a token with the right role. It is sent in a header, never in an address."}</p>
        <TokenFields
          value={value}
          keep={keep}
          onChange={(given, kept) => {
            setValue(given);
            setKeep(kept);
          }}
        />
        <p class="actions">
          {hasToken() && (
            <button
              type="button"
              onClick={() => {
                setToken("", false);
                dialog.set(null);
              }}
            >
              Forget the token
            </button>
          )}
          <button type="submit" class="main" disabled={!value}>
            Use it
          </button>
        </p>
      </form>
    </Dialog>
  );
}

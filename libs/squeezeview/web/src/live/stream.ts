// Server-Sent Events with resume: every second once, whatever happens to the line.
//
// The browser's own EventSource gives up for good when a server answers with an error while it starts, and then forgets the
// last id. So the stream is read here, and each new connection says the last second it has in Last-Event-ID.

import { headers, reach, refusal, Refusal, words } from "./api";

export interface Told {
  name: string;
  id: string;
  data: string;
}

export type Line =
  | { state: "connecting" }
  | { state: "live" }
  | { state: "lost"; since: number; why: string }; // ms of the wall clock

/** What became of the seconds since the stream was opened. */
export class Seconds {
  first = 0;
  last = 0;
  received = 0;
  repeated = 0;
  missing: number[] = [];

  /** The server says that it will not tell the seconds before this one: they are read elsewhere. */
  skip(to: number): void {
    this.last = Math.max(this.last, to - 1);
  }

  /** Take note of a second; false where it was here before. */
  take(ts: number): boolean {
    if (this.received && ts <= this.last) {
      this.repeated++;
      return false;
    }
    if (!this.received) this.first = ts;
    else for (let lost = this.last + 1; lost < ts && this.missing.length < 10_000; lost++) this.missing.push(lost);
    this.last = ts;
    this.received++;
    return true;
  }
}

const SILENT_MS = 35_000; // two heartbeats that did not come
const PAUSES_MS = [300, 600, 1_200, 2_500, 5_000];

export class Stream {
  line: Line = { state: "connecting" };
  readonly seconds = new Seconds();
  private lastId = "";
  private stopped = new AbortController();
  private failures = 0;

  constructor(
    private readonly path: string,
    private readonly heard: (told: Told) => void,
    private readonly changed: (line: Line) => void,
    after: number | null = null, // s: what came after this second is told first
  ) {
    if (after !== null) this.lastId = String(after);
    void this.run();
  }

  close(): void {
    this.stopped.abort();
  }

  private async run(): Promise<void> {
    const { signal } = this.stopped;
    while (!signal.aborted) {
      let why: string;
      try {
        why = await this.once();
      } catch (error) {
        why = words(error);
      }
      // eslint-disable-next-line @typescript-eslint/no-unnecessary-condition -- it may have been closed meanwhile
      if (signal.aborted) return;
      if (this.line.state !== "lost") this.tell({ state: "lost", since: Date.now(), why });
      else this.tell({ ...this.line, why });
      await pause(PAUSES_MS[Math.min(this.failures++, PAUSES_MS.length - 1)], signal);
    }
  }

  /** Read one connection until it ends; say why it ended. */
  private async once(): Promise<string> {
    const { signal } = this.stopped;
    const ended = new AbortController();
    const stop = (): void => ended.abort();
    signal.addEventListener("abort", stop);
    let watch = setTimeout(stop, SILENT_MS);
    try {
      const more: Record<string, string> = { Accept: "text/event-stream" };
      if (this.lastId) more["Last-Event-ID"] = this.lastId;
      const response = await reach(this.path, { headers: headers(more), signal: ended.signal });
      if (!response.ok) throw await refusal(response);
      if (!response.body) throw new Refusal(0, "this browser cannot read a stream");
      this.tell({ state: "live" });
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      const parse = parser((told) => {
        if (told.id) this.lastId = told.id;
        this.failures = 0;
        this.heard(told);
      });
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return "the server closed the stream";
        clearTimeout(watch);
        watch = setTimeout(stop, SILENT_MS);
        parse(value);
      }
    } catch (error) {
      if (ended.signal.aborted && !signal.aborted) return "nothing was heard for half a minute";
      if (error instanceof Refusal) throw error;
      return "the connection broke";
    } finally {
      clearTimeout(watch);
      signal.removeEventListener("abort", stop);
      ended.abort();
    }
  }

  private tell(line: Line): void {
    this.line = line;
    this.changed(line);
  }
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((done) => {
    const timer = setTimeout(done, ms * (0.75 + Math.random() / 2));
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      done();
    });
  });
}

/** Cut the text of a stream into its events, as it comes. */
export function parser(heard: (told: Told) => void): (chunk: string) => void {
  let rest = "";
  let name = "";
  let id = "";
  let data: string[] = [];
  return (chunk) => {
    rest += chunk;
    for (;;) {
      const end = rest.search(/\r\n|\n|\r(?!$)/);
      if (end < 0) return;
      const line = rest.slice(0, end);
      rest = rest.slice(end + (rest.startsWith("\r\n", end) ? 2 : 1));
      if (line === "") {
        if (data.length) heard({ name: name || "message", id, data: data.join("\n") });
        name = id = "";
        data = [];
      } else if (!line.startsWith(":")) {
        const colon = line.indexOf(":");
        const field = colon < 0 ? line : line.slice(0, colon);
        const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
        if (field === "event") name = value;
        else if (field === "id") id = value;
        else if (field === "data") data.push(value);
      }
    }
  };
}

// Backtests: asked for with a form made of the parameter model, followed, compared, cancelled, taken up again.

import type { JSX } from "preact";
import { useMemo, useRef, useState } from "preact/hooks";
import { day, duration, number, percent } from "../components/format";
import { Refusal, send, words } from "./api";
import { formOf, limits, wrong, type Field, type Form } from "./form";
import { Absent, dialog, present, TokenDialog, useAsked, Waiting } from "./shared";

const COMPARED_MAX = 8;
const DAY_S = 86_400;

interface Spec {
  assets: string[];
  start: string;
  end: string;
  params: Record<string, unknown>;
}

interface Progress {
  stage: string;
  done: number;
  total: number;
  unit: string;
  eta_s: number | null;
}

interface Run extends Partial<Spec> {
  run_id: string;
  state: string;
  spec?: Spec;
  progress?: Progress | null;
  error?: string;
  total_return?: number | null;
  trades?: number | null;
}

export function RunsPage(): JSX.Element {
  const runs = useAsked<{ runs: Run[]; more: boolean }>("/v1/backtests?limit=200", 1);
  const [asking, setAsking] = useState(false);
  const [chosen, setChosen] = useState<string[]>([]);
  const [said, setSaid] = useState("");
  const opener = useRef<HTMLButtonElement>(null);
  const path = (run: Run): string => `/v1/backtests/${encodeURIComponent(run.run_id)}`;
  const act = (what: string, run: Run, method: "POST" | "DELETE", to: string): void => {
    setSaid(`${what} ${run.run_id.slice(0, 12)} …`);
    send(method, to).then(
      () => {
        setSaid(`${what} ${run.run_id.slice(0, 12)}: done.`);
        runs.again();
      },
      (error: unknown) => {
        setSaid(`${what} ${run.run_id.slice(0, 12)} was refused: ${words(error)}`);
        if (error instanceof Refusal && (error.status === 401 || error.status === 403))
          dialog.set(<TokenDialog why={`${words(error)}.`} onGiven={() => act(what, run, method, to)} />);
      },
    );
  };
  const list = runs.value?.runs;
  return (
    <section class="runspage" aria-labelledby="runs-title">
      <div class="bar">
        <h2 id="runs-title">
          Backtests <small>{list ? `${list.length}${runs.value?.more ? " newest" : ""}` : ""}</small>
        </h2>
        <span class="actions">
          {chosen.length >= 2 ? (
            <a class="button" href={`/v1/backtests/compare?${chosen.map((id) => `run=${encodeURIComponent(id)}`).join("&")}`} target="_blank" rel="noopener">
              Compare {chosen.length} side by side
            </a>
          ) : (
            <span class="hint">Tick two or more finished runs to compare them.</span>
          )}
          <button ref={opener} type="button" class="main" aria-expanded={asking} onClick={() => setAsking(!asking)}>
            {asking ? "Close the form" : "New backtest"}
          </button>
        </span>
      </div>
      <p role="status" class="hint said">
        {said}
      </p>
      {asking && (
        <NewRun
          onAsked={(run) => {
            setSaid(`Asked for: ${run.run_id.slice(0, 12)} is ${run.state}.`);
            setAsking(false);
            runs.again();
            opener.current?.focus();
          }}
        />
      )}
      {!list ? (
        runs.error === null ? (
          <Waiting what="the runs" />
        ) : (
          <Absent what="The list of runs" error={runs.error} again={runs.again} />
        )
      ) : list.length === 0 ? (
        <p class="empty">No backtest was run yet: “New backtest” asks for one.</p>
      ) : (
        <div class="scroll" role="region" aria-label="Backtests" tabIndex={0}>
          <table class="data runs-table">
            <thead>
              <tr>
                <th scope="col" class="left">
                  <span class="hidden">Compare</span>
                </th>
                {["Run", "State", "Assets", "Days, UTC", "Changed from the defaults"].map((head) => (
                  <th key={head} scope="col" class="left">
                    {head}
                  </th>
                ))}
                <th scope="col">Return</th>
                <th scope="col">Trades</th>
                <th scope="col" class="left">
                  <span class="hidden">What can be done</span>
                </th>
              </tr>
            </thead>
            <tbody>
              {list.map((run) => {
                const spec = run.spec ?? (run as Spec);
                const going = run.state === "queued" || run.state === "running";
                const params = Object.entries(spec.params);
                return (
                  <tr key={run.run_id} data-run={run.run_id}>
                    <td>
                      {run.state === "done" && (
                        <input
                          type="checkbox"
                          aria-label={`Compare ${run.run_id.slice(0, 12)}`}
                          checked={chosen.includes(run.run_id)}
                          disabled={!chosen.includes(run.run_id) && chosen.length >= COMPARED_MAX}
                          onChange={(event) =>
                            setChosen(event.currentTarget.checked ? [...chosen, run.run_id] : chosen.filter((id) => id !== run.run_id))
                          }
                        />
                      )}
                    </td>
                    <th scope="row">
                      <code>{run.run_id.slice(0, 12)}</code>
                    </th>
                    <td class="left">
                      <State run={run} />
                    </td>
                    <td class="left">{spec.assets.slice(0, 4).join(", ") + (spec.assets.length > 4 ? ` and ${spec.assets.length - 4} more` : "")}</td>
                    <td class="left">{spec.start === spec.end ? spec.start : `${spec.start} – ${spec.end}`}</td>
                    <td class="left" data-head="Changed:">
                      {params.length ? (
                        <span class="words">{params.map(([name, value]) => `${name.replaceAll("_", " ")} ${String(value)}`).join(", ")}</span>
                      ) : (
                        <span class="none">nothing</span>
                      )}
                    </td>
                    <td data-head="Return" class={(run.total_return ?? 0) > 0 ? "good" : (run.total_return ?? 0) < 0 ? "bad" : ""}>
                      {percent(run.total_return ?? null, 2, true)}
                    </td>
                    <td data-head="Trades">{number(run.trades ?? null)}</td>
                    <td class="left doing">
                      {run.state === "done" && (
                        <a class="button" href={`${path(run)}/report`} target="_blank" rel="noopener">
                          Report
                        </a>
                      )}
                      {going && (
                        <button type="button" onClick={() => act("Cancel", run, "DELETE", path(run))}>
                          Cancel
                        </button>
                      )}
                      {!going && run.state !== "done" && (
                        <button type="button" onClick={() => act("Resume", run, "POST", `${path(run)}/resume`)}>
                          Resume
                        </button>
                      )}
                    </td>
                  </tr>
                );
              })}
            </tbody>
          </table>
        </div>
      )}
      {runs.error !== null && list && <p class="warning">Shown as it was: {words(runs.error)}.</p>}
    </section>
  );
}

function State({ run }: { run: Run }): JSX.Element {
  const { progress } = run;
  const tone = run.state === "failed" ? "bad" : run.state === "running" ? "open" : "";
  return (
    <>
      <span class={tone}>{run.state}</span>
      {run.state === "running" && progress && (
        <span class="progress">
          <progress max={Math.max(1, progress.total)} value={progress.done} aria-label={progress.stage} />
          <small>
            {progress.stage} {number(progress.done)} of {number(progress.total)} {progress.unit}
            {progress.eta_s !== null && `, about ${duration(Math.max(1, progress.eta_s))} left`}
          </small>
        </span>
      )}
      {run.error && <small class="words">{run.error}</small>}
    </>
  );
}

// --- the form ---

function NewRun({ onAsked }: { onAsked: (run: Run) => void }): JSX.Element {
  const schema = useAsked<unknown>("/v1/parameters/schema");
  const assets = useAsked<Record<string, unknown>>("/v1/assets");
  const form = useMemo<Form | Error | null>(() => {
    if (schema.value === null) return null;
    try {
      return formOf(schema.value);
    } catch (error) {
      return error instanceof Error ? error : new Error(String(error));
    }
  }, [schema.value]);
  if (schema.error !== null && !form) return <Absent what="The form" error={schema.error} again={schema.again} />;
  if (form instanceof Error) return <Absent what="The form" error={form} />;
  if (!form || (!assets.value && assets.error === null)) return <Waiting what="the form" />;
  return <Fields form={form} known={Object.keys(assets.value ?? {}).sort()} onAsked={onAsked} />;
}

const keyOf = (group: string, field: Field): string => `${group}.${field.name}`;

function Fields(props: { form: Form; known: string[]; onAsked: (run: Run) => void }): JSX.Element {
  const { form, known } = props;
  const yesterday = Math.floor(present() / DAY_S) * DAY_S - DAY_S;
  const [assets, setAssets] = useState<string[]>(known.slice(0, 1));
  const [other, setOther] = useState("");
  const [start, setStart] = useState(day(yesterday - 6 * DAY_S));
  const [end, setEnd] = useState(day(yesterday));
  const [given, setGiven] = useState<Partial<Record<string, string | boolean>>>({});
  const [placebos, setPlacebos] = useState("0");
  const [state, setState] = useState<{ busy: boolean; error: string }>({ busy: false, error: "" });
  const all = [{ name: "main", fields: form.main }, ...form.groups];
  const problems = all.flatMap(({ name, fields }) =>
    fields.flatMap((field) => {
      const text = given[keyOf(name, field)];
      const found = typeof text === "string" ? wrong(field, text) : "";
      return found ? [`${field.label}: ${found}`] : [];
    }),
  );
  const named = [...new Set([...assets, ...other.toUpperCase().split(/[\s,]+/).filter(Boolean)])];
  if (named.length === 0) problems.push("name at least one asset");
  if (named.length > form.assetsMost) problems.push(`${named.length} assets, the limit is ${form.assetsMost}`);
  if (!start || !end) problems.push("both days are needed");
  else if (end < start) problems.push("the last day lies before the first");

  /** What differs from the defaults, as the API takes it. */
  const body = (): Record<string, unknown> => {
    const changed = (group: string, fields: Field[]): Record<string, unknown> =>
      Object.fromEntries(
        fields.flatMap((field) => {
          const text = given[keyOf(group, field)];
          if (text === undefined) return [];
          const value = typeof text === "boolean" || field.kind === "text" ? text : Number(text);
          return value === field.initial ? [] : [[field.name, value]];
        }),
      );
    const out: Record<string, unknown> = { assets: named, start, end, ...changed("main", form.main) };
    for (const { name, fields } of form.groups) {
      const values = changed(name, fields);
      if (Object.keys(values).length) out[name] = values;
    }
    if (Number(placebos) > 0) out.placebos = Number(placebos);
    return out;
  };
  const ask = (): void => {
    setState({ busy: true, error: "" });
    send<Run>("POST", "/v1/backtests", body()).then(props.onAsked, (error: unknown) => {
      setState({ busy: false, error: words(error) });
      if (error instanceof Refusal && (error.status === 401 || error.status === 403))
        dialog.set(<TokenDialog why={`${words(error)}.`} onGiven={ask} />);
    });
  };
  return (
    <form
      class="newrun"
      aria-label="New backtest"
      noValidate
      onSubmit={(event) => {
        event.preventDefault();
        if (problems.length === 0) ask();
      }}
    >
      <div class="fields">
        <fieldset class="assets">
          <legend>Assets</legend>
          {known.slice(0, 60).map((name) => (
            <label key={name} class="check">
              <input
                type="checkbox"
                checked={assets.includes(name)}
                onChange={(event) => setAssets(event.currentTarget.checked ? [...assets, name] : assets.filter((one) => one !== name))}
              />{" "}
              {name}
            </label>
          ))}
          <label class="field">
            <span>others</span>
            <input name="assets" value={other} placeholder="ETH, SOL" onInput={(event) => setOther(event.currentTarget.value)} />
          </label>
        </fieldset>
        <label class="field">
          <span>
            First day <small>UTC</small>
          </span>
          <input type="date" name="start" value={start} onInput={(event) => setStart(event.currentTarget.value)} />
        </label>
        <label class="field">
          <span>
            Last day <small>UTC, tested too</small>
          </span>
          <input type="date" name="end" value={end} onInput={(event) => setEnd(event.currentTarget.value)} />
        </label>
        {form.main.map((field) => (
          <Input key={field.name} group="main" field={field} given={given} onChange={setGiven} />
        ))}
        <label class="field">
          <span>Placebos</span>
          <input type="number" name="placebos" min={0} max={1_000} step={1} value={placebos} onInput={(event) => setPlacebos(event.currentTarget.value)} />
          <small>0 to 1,000 runs over shuffled flow, to measure luck by</small>
        </label>
      </div>
      {form.groups.map(({ name, title, fields }) => {
        const changed = fields.filter((field) => {
          const value = given[keyOf(name, field)];
          return value !== undefined && value !== field.initial && Number(value) !== field.initial;
        }).length;
        return (
          <details key={name}>
            <summary>
              {title}{" "}
              <small>
                {fields.length} values{changed ? `, ${changed} changed` : ", all at their defaults"}
              </small>
            </summary>
            <div class="fields">
              {fields.map((field) => (
                <Input key={field.name} group={name} field={field} given={given} onChange={setGiven} />
              ))}
            </div>
          </details>
        );
      })}
      {problems.length > 0 && (
        <ul class="warning" role="status">
          {problems.map((text) => (
            <li key={text}>{text}</li>
          ))}
        </ul>
      )}
      {state.error && (
        <p class="warning" role="alert">
          It was refused: {state.error}
        </p>
      )}
      <p class="actions">
        <button type="button" onClick={() => setGiven({})} disabled={Object.keys(given).length === 0}>
          All defaults
        </button>
        <button type="submit" class="main" disabled={problems.length > 0 || state.busy}>
          {state.busy ? "Asking …" : "Run it"}
        </button>
      </p>
    </form>
  );
}

interface InputProps {
  group: string;
  field: Field;
  given: Partial<Record<string, string | boolean>>;
  onChange: (given: Partial<Record<string, string | boolean>>) => void;
}

function Input({ group, field, given, onChange }: InputProps): JSX.Element {
  const key = keyOf(group, field);
  const value = given[key];
  const problem = typeof value === "string" ? wrong(field, value) : "";
  const set = (next: string | boolean): void => onChange({ ...given, [key]: next });
  if (field.kind === "boolean")
    return (
      <label class="check field" title={field.help}>
        <span>
          <input type="checkbox" name={key} checked={value === undefined ? field.initial === true : value === true} onChange={(event) => set(event.currentTarget.checked)} />{" "}
          {field.label}
        </span>
        <small>{field.help}</small>
      </label>
    );
  return (
    <label class={problem ? "field refused" : "field"}>
      <span>
        {field.label} <small>{field.unit}</small>
      </span>
      <input
        type={field.kind === "text" ? "text" : "number"}
        name={key}
        step={field.kind === "integer" ? 1 : "any"}
        {...(field.least === null ? {} : { min: field.least })}
        {...(field.most === null ? {} : { max: field.most })}
        aria-invalid={problem !== ""}
        value={value === undefined || typeof value === "boolean" ? String(field.initial ?? "") : value}
        onInput={(event) => set(event.currentTarget.value)}
      />
      <small>
        {problem ? <b class="bad">{problem}. </b> : null}
        {field.help}
        {limits(field) && ` (${limits(field)})`}
      </small>
    </label>
  );
}


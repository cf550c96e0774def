// Questions to the dashboard's own server: JSON in, JSON out, refusals as sentences. The token lives here and goes out as a header only.

export class Refusal extends Error {
  constructor(
    readonly status: number, // 0: no answer at all
    message: string,
  ) {
    super(message);
  }
}

const KEPT = "squeezeflow-token";
let token = sessionStorage.getItem(KEPT) ?? "";

export const hasToken = (): boolean => token !== "";

/** Keep a token in memory; in this tab's storage only when one asks for it. */
export function setToken(given: string, keep: boolean): void {
  token = given;
  if (keep && given) sessionStorage.setItem(KEPT, given);
  else sessionStorage.removeItem(KEPT);
}

export function headers(more: Record<string, string> = {}): Record<string, string> {
  return token ? { ...more, Authorization: `Bearer ${token}` } : more;
}

export async function ask<T>(path: string, signal?: AbortSignal): Promise<T> {
  return answered<T>(await reach(path, { headers: headers({ Accept: "application/json" }), ...(signal ? { signal } : {}) }));
}

export async function send<T>(method: "POST" | "DELETE", path: string, body?: unknown): Promise<T> {
  const more: Record<string, string> = { Accept: "application/json" };
  if (body !== undefined) more["Content-Type"] = "application/json";
  return answered<T>(
    await reach(path, { method, headers: headers(more), ...(body === undefined ? {} : { body: JSON.stringify(body) }) }),
  );
}

export async function reach(path: string, options: RequestInit): Promise<Response> {
  try {
    return await fetch(path, { ...options, credentials: "omit", redirect: "error", cache: "no-store" });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new Refusal(0, "the server does not answer");
  }
}

async function answered<T>(response: Response): Promise<T> {
  if (response.ok) return (await response.json()) as T;
  throw await refusal(response);
}

/** A problem's own sentence, where the answer holds one. */
export async function refusal(response: Response): Promise<Refusal> {
  const text = await response.text().catch(() => "");
  let detail = `${response.status} ${response.statusText}`;
  try {
    const said = JSON.parse(text) as { detail?: unknown; title?: unknown };
    if (typeof said.detail === "string" && said.detail) detail = said.detail;
    else if (typeof said.title === "string") detail = said.title;
  } catch {
    // no JSON: the status says all there is
  }
  return new Refusal(response.status, detail);
}

export const words = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/** `a=1&b=2`, without what is unknown. */
export function query(values: Record<string, string | number | undefined>): string {
  const parts = Object.entries(values).flatMap(([name, value]) =>
    value === undefined ? [] : [`${name}=${encodeURIComponent(value)}`],
  );
  return parts.length ? `?${parts.join("&")}` : "";
}

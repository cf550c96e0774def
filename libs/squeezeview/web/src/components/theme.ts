// Dark and light: CSS variables are the truth, canvases read them here and are told when they change.

export type Theme = "light" | "dark";

const listeners = new Set<() => void>();
let cache = new Map<string, string>();

export function theme(): Theme {
  const chosen = document.documentElement.dataset.theme;
  if (chosen === "light" || chosen === "dark") return chosen;
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

export function setTheme(chosen: Theme): void {
  document.documentElement.dataset.theme = chosen;
  changed();
}

/** The colour of a name, as `--name` says it in the current theme. */
export function color(name: string): string {
  let value = cache.get(name);
  if (value === undefined) {
    value = getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
    cache.set(name, value);
  }
  return value;
}

export function onTheme(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export const calm = (): boolean => matchMedia("(prefers-reduced-motion: reduce)").matches;

function changed(): void {
  cache = new Map();
  for (const listener of listeners) listener();
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);

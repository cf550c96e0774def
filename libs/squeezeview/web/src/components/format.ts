// Numbers and times as people read them: always UTC, a unit with every figure, a real minus sign.

const SPACE = "\u202f"; // narrow, does not break
const fixed = new Map<number, Intl.NumberFormat>();

export const NONE = "–";

export function number(value: number | null, decimals = 0, signed = false): string {
  if (value === null || !Number.isFinite(value)) return NONE;
  let format = fixed.get(decimals);
  if (!format) {
    format = new Intl.NumberFormat("en-US", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
    fixed.set(decimals, format);
  }
  const size = format.format(Math.abs(value));
  const isZero = Number(size.replaceAll(",", "")) === 0;
  return (value < 0 && !isZero ? "−" : signed && !isZero ? "+" : "") + size;
}

/** Three digits and a letter: 1.23 k, 45.6 M. */
export function compact(value: number | null, signed = false): string {
  if (value === null || !Number.isFinite(value)) return NONE;
  const size = Math.abs(value);
  for (const [limit, letter] of [
    [1e12, "T"],
    [1e9, "B"],
    [1e6, "M"],
    [1e3, "k"],
  ] as const) {
    if (size >= limit * 0.9995) {
      const scaled = value / limit;
      return number(scaled, Math.abs(scaled) < 9.995 ? 2 : Math.abs(scaled) < 99.95 ? 1 : 0, signed) + SPACE + letter;
    }
  }
  return number(value, size === 0 ? 0 : size < 1 ? 3 : size < 100 ? 1 : 0, signed);
}

export function percent(share: number | null, decimals = 2, signed = false): string {
  return share === null || !Number.isFinite(share) ? NONE : `${number(share * 100, decimals, signed)}${SPACE}%`;
}

export function usd(value: number | null, signed = false): string {
  return value === null ? NONE : `${number(value, Math.abs(value) < 10_000 ? 2 : 0, signed)}${SPACE}USD`;
}

export function duration(seconds: number | null): string {
  if (seconds === null || !Number.isFinite(seconds)) return NONE;
  const whole = Math.round(Math.abs(seconds));
  const parts: [number, string][] = [
    [Math.floor(whole / 86_400), "d"],
    [Math.floor(whole / 3_600) % 24, "h"],
    [Math.floor(whole / 60) % 60, "min"],
    [whole % 60, "s"],
  ];
  const first = parts.findIndex(([n]) => n > 0);
  if (first < 0) return `0${SPACE}s`;
  return (
    (seconds < 0 ? "−" : "") +
    parts
      .slice(first, first + 2)
      .filter(([n]) => n > 0)
      .map(([n, unit]) => `${n}${SPACE}${unit}`)
      .join(" ")
  );
}

/** A figure's value with its unit. */
export function withUnit(value: number | null, unit: string, signed = false): string {
  if (value === null || !Number.isFinite(value)) return NONE;
  switch (unit) {
    case "share":
      return percent(value, Math.abs(value) < 10 ? 2 : 0, signed);
    case "usd":
      return usd(value, signed);
    case "seconds":
      return duration(value);
    case "bps":
      return `${number(value, 2, signed)}${SPACE}bps`;
    case "count":
      return number(value, Number.isInteger(value) ? 0 : 1);
    case "date":
      return day(value);
    case "ratio":
      return number(value, Math.abs(value) >= 100 ? 0 : 2, signed);
    default:
      return number(value, Number.isInteger(value) ? 0 : 3, signed) + (unit ? SPACE + unit : "");
  }
}

const two = (n: number): string => String(n).padStart(2, "0");
export const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

export function day(ts: number): string {
  const date = new Date(ts * 1_000);
  return `${date.getUTCFullYear()}-${two(date.getUTCMonth() + 1)}-${two(date.getUTCDate())}`;
}

export function clock(ts: number, seconds = true): string {
  const date = new Date(ts * 1_000);
  return `${two(date.getUTCHours())}:${two(date.getUTCMinutes())}` + (seconds ? `:${two(date.getUTCSeconds())}` : "");
}

/** "2026-01-05 12:30:07"; whoever shows it says UTC beside it or in the column's head. */
export function moment(ts: number, seconds = true): string {
  return `${day(ts)} ${clock(ts, seconds)}`;
}

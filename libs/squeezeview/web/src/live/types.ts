// What the server says, as this page reads it. Numbers are in units people use; null is unknown.

export type Maybe = number | null;

/** A second's board line of one asset. */
export interface BoardRow {
  asset: string;
  close: Maybe;
  chg24h_pct: Maybe;
  z_spot: Maybe[]; // flow of 5 min, 15 min, 1 h, 4 h, in swings
  z_perp: Maybe[];
  oi_chg_pct: Maybe[];
  funding_8h_bp: Maybe;
  basis_bp: Maybe;
  phase: Phase | "WARMING" | null;
  direction: number; // 1: shorts trapped
  score: Maybe;
  quality: Maybe; // share of the venues' weight that is complete
  position_usd: Maybe;
  pnl_usd: Maybe;
}

export interface Board {
  ts: number; // s, UTC
  rows: BoardRow[];
}

export const BOARD_NAMES = [
  "asset", "close", "chg24h_pct", "z_spot", "z_perp", "oi_chg_pct", "funding_8h_bp", "basis_bp", "phase", "direction",
  "score", "quality", "position_usd", "pnl_usd",
]; // prettier-ignore

export const WINDOWS = ["5m", "15m", "1h", "4h"] as const;
export const PHASES = ["IDLE", "IMBALANCED", "RESET_A", "RESET_B"] as const;
export type Phase = (typeof PHASES)[number];
export const PHASE_WORDS: Record<Phase, string> = {
  IDLE: "calm",
  IMBALANCED: "imbalance",
  RESET_A: "reset A",
  RESET_B: "reset B",
};

/** A phase by its name or its number. */
export function phaseOf(said: unknown): Phase | null {
  if (typeof said === "number") return PHASES[said] ?? null;
  return PHASES.find((phase) => phase === said) ?? null;
}

const four = (said: unknown): Maybe[] => (Array.isArray(said) ? (said as Maybe[]) : [null, null, null, null]);

export function boardRow(names: string[], values: unknown[]): BoardRow {
  const by = Object.fromEntries(names.map((name, index) => [name, values[index] ?? null])) as Record<string, unknown>;
  return {
    ...(by as unknown as BoardRow),
    z_spot: four(by.z_spot),
    z_perp: four(by.z_perp),
    oi_chg_pct: four(by.oi_chg_pct),
    phase: by.phase === "WARMING" ? "WARMING" : phaseOf(by.phase),
    direction: typeof by.direction === "number" ? by.direction : 0,
  };
}

/** One second of an asset, whole. */
export interface Row {
  ts: number;
  open: Maybe;
  high: Maybe;
  low: Maybe;
  close: Maybe;
  spot_delta: Maybe; // USD
  perp_delta: Maybe;
  spot_volume: Maybe;
  perp_volume: Maybe;
  open_interest: Maybe; // base
  funding_rate_8h: Maybe; // share
  basis_bps: Maybe;
  quality: Maybe;
  score: Maybe;
  direction?: unknown;
  phase?: unknown;
  parts?: Record<string, Maybe> | null; // points
  reset_low?: Maybe;
  reset_high?: Maybe;
  [more: string]: unknown;
}

export interface Instrument {
  id: string;
  base: string;
  quote: string;
  price_decimals: number;
  qty_decimals: number;
}

export interface Parts {
  reset_deceleration: number;
  absorption: number;
  failed_breakdown: number;
  directional_bias: number;
  open_interest: number;
}

/** A record of the strategy, as it is stored. */
export interface Decision {
  asset: string;
  ts: number;
  kind: string;
  direction: number | string;
  score_milli: number;
  parts: Parts;
  phase: string;
  reset_low: number; // price scale
  reset_high: number;
  blocked_by: string[];
  reason: string;
  order_id: string;
  inputs: Record<string, number>;
  params_hash: string;
}

export interface Signal {
  asset: string;
  ts: number;
  direction: number | string;
  score_milli: number;
  reasons: string[];
  params_hash: string;
}

export interface Update {
  order_id: string;
  ts: number;
  state: string;
  reason: string;
  limit: string;
  value: string;
}

export interface Order {
  id: string;
  asset: string;
  instrument: string;
  decided_ts: number;
  side: string | number;
  qty: number; // qty scale
  kind: string;
  price: number;
  reduce_only: boolean;
  reason: string;
  updates?: Update[];
}

export interface Fill {
  id: string;
  order_id: string;
  asset: string;
  instrument: string;
  ts: number;
  side: string | number;
  price: number; // price scale
  qty: number;
  fee_usd_e8: number;
  slippage_usd_e8: number;
  liquidity: string;
  reason: string;
}

export const sideOf = (side: string | number | undefined): number =>
  typeof side === "number" ? side : side?.toLowerCase() === "buy" ? 1 : side?.toLowerCase() === "sell" ? -1 : 0;

export const signOf = (direction: unknown): number =>
  typeof direction === "number" ? Math.sign(direction) : direction === "BULLISH" ? 1 : direction === "BEARISH" ? -1 : 0;

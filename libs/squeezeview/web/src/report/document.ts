// The document of a page, field by field as `squeezecore.adapters.page` defines it; a test compares the names.
// Times are UTC seconds, shares and returns fractions, money USD. A number that is not finite arrives as null.

import type { Pack } from "../components/packs";

export const FORMAT = 2;

export type Unit = "share" | "usd" | "seconds" | "bps" | "count" | "ratio" | "date" | "";

export interface Figure {
  name: string;
  label: string;
  value: number | null;
  unit: Unit;
  low: number | null;
  high: number | null;
  note: string;
}

export interface FigureGroup {
  title: string;
  figures: Figure[];
}

export interface Reason {
  text: string;
  points: number;
}

export interface Verdict {
  word: string;
  sentence: string;
  reasons: Reason[];
  provisional: boolean;
}

export interface BreakdownLine {
  label: string;
  trades: number;
  wins: number;
  pnl_usd: number;
  pnl_mean_usd: number;
  costs_usd: number;
}

export interface Breakdown {
  title: string;
  lines: BreakdownLine[];
}

export interface Part {
  label: string;
  points: number;
  points_max: number;
  text: string;
}

export interface Input {
  label: string;
  text: string;
  known_at: number | null;
  threshold: string;
  met: boolean | null;
}

export interface WindowLine {
  window_s: number;
  spot_usd: number;
  perp_usd: number;
  z_spot: number;
  z_perp: number;
  gap: number;
  gap_in_swings: number;
  price_return: number;
  z_return: number;
}

export interface Why {
  ts: number;
  title: string;
  sentence: string;
  score: number;
  direction: number;
  phase: string;
  parts: Part[];
  inputs: Input[];
  windows: WindowLine[];
  blocked_by: string[];
}

export interface TradeLine {
  number: number;
  asset: string;
  instrument: string;
  direction: number;
  tier: number;
  score: number;
  phase: string;
  decided_ts: number;
  entry_ts: number;
  exit_ts: number;
  hold_s: number;
  qty: number;
  entry_price: number;
  exit_price: number;
  notional_usd: number;
  pnl_usd: number;
  pnl_share: number;
  fees_usd: number;
  slippage_usd: number;
  funding_usd: number;
  mae_usd: number;
  mfe_usd: number;
  level: number | null;
  reason: string;
  reason_words: string;
  detail_s: number;
  entry_why: Why | null;
  exit_why: Why | null;
}

export interface AssetSeries {
  asset: string;
  instrument: string;
  price_decimals: number;
  step_s: number;
  base: Pack;
  seconds: Pack;
}

export interface Band {
  asset: string;
  start_s: number;
  end_s: number;
  direction: number;
  phase: string;
  low: number | null;
  high: number | null;
}

export interface Month {
  year: number;
  month: number;
  total_return: number;
  days: number;
}

export interface Placebo {
  name: string;
  title: string;
  what: string;
  measure: string;
  real: number;
  values: number[];
  p_value: number;
  note: string;
}

export interface Stress {
  factor: number;
  total_return: number;
  sharpe: number | null;
  trades: number;
  costs_usd: number;
}

export interface CostStress {
  lines: Stress[];
  break_even: number | null;
  note: string;
}

export interface QualityDay {
  day: string;
  seconds: number;
  incomplete: number;
  holes: number;
}

export interface VenueLine {
  instrument: string;
  weight: number;
  seconds: number;
  complete: number;
  gaps: number;
}

export interface Quality {
  asset: string;
  seconds_expected: number;
  seconds: number;
  incomplete: number;
  days: QualityDay[];
  holes: [number, number][];
  venues: VenueLine[];
}

export interface ReceiptLine {
  label: string;
  text: string;
  note: string;
}

export interface RunPage {
  run_id: string;
  name: string;
  assets: string[];
  start_s: number;
  end_s: number;
  capital_usd: number;
  entry_score: number | null;
  warnings: string[];
  verdict: Verdict;
  headline: Figure[];
  groups: FigureGroup[];
  breakdowns: Breakdown[];
  months: Month[];
  trades: TradeLine[];
  series: AssetSeries[];
  bands: Band[];
  equity: Pack;
  placebos: Placebo[];
  stress: CostStress | null;
  quality: Quality[];
  receipt: ReceiptLine[];
}

export interface Difference {
  asset: string;
  entry_ts: number;
  direction: number;
  pnl_usd: (number | null)[];
  why: string;
}

export interface Comparison {
  spec: [string, string[]][];
  shared: number;
  differences: Difference[];
}

export interface Page {
  format: number;
  title: string;
  runs: RunPage[];
  comparison: Comparison | null;
}

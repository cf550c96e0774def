// One explained second in words, from what GET /v1/assets/…/explain says. Names stand for machines there; people read these.

import { compact, number, percent } from "../components/format";
import type { Why } from "../report/document";
import { signOf } from "./types";

export interface Explained {
  asset: string;
  instrument: string;
  price_decimals: number;
  qty_decimals: number;
  explanation: Explanation;
}

interface SideParts {
  reset_deceleration: number;
  absorption: number;
  failed_breakdown: number;
  tests: number;
  adverse_first: number;
  adverse_last: number;
  absorbing_candles: number[];
  absorbing_with_volume: number[];
  attempts: number[];
  attempts_falling: boolean;
}

interface Explanation {
  ts: number;
  row: Record<string, number>;
  score_milli: number;
  direction: string;
  direction_from: string;
  blocked_by: string[];
  windows: Record<string, Record<string, number>>;
  context: { value: number; direction: string; expected_duration: string };
  divergence: { armed: string; armed_true: boolean; held_last_ts: number };
  open_interest: { value: number; vote: string; stale_or_missing: boolean; z: number; known_at: number; age_s: number; age_s_max: number };
  reset: { phase: string; direction: string; led_by: string; phase_ts: number; reset_low: number; reset_high: number };
  parts: { directional_bias: number; bias_spot: boolean; bias_perp: boolean; bias_return: boolean; long: SideParts; short: SideParts };
  thresholds: Record<string, number>;
}

const BLOCKS: Record<string, string> = {
  score: "the score is below the entry's",
  direction: "there is no direction",
  no_direction: "there is no direction",
  warming: "less than 28 hours of rows, or a flow without any swing",
  warming_up: "less than 28 hours of rows, or a flow without any swing",
  quality: "a venue was incomplete within the last minute",
  signal: "neither a reset nor an armed divergence stands in this direction",
  no_signal: "neither a reset nor an armed divergence stands in this direction",
  cooldown: "the last exit was too short a time ago",
  both_flows_against: "both flows run against it",
  context_flip: "the context is on the other side",
  expected_move: "the expected move does not pay for the costs",
  structure: "price is beyond the structure's border already",
  size: "the limits leave less than one lot",
  risk: "a limit denies it",
  position: "a position or an order stands",
};
const TRAPPED: Record<string, string> = { NEUTRAL: "nobody", BULLISH: "shorts", BEARISH: "longs" };
const PHASE: Record<string, string> = {
  IDLE: "no imbalance",
  IMBALANCED: "imbalance",
  RESET_A: "reset A (exhausted)",
  RESET_B: "reset B (shaken out)",
};

export const blockWords = (name: string): string => BLOCKS[name] ?? name.replaceAll("_", " ");
const counted = (n: number, what: string): string => `${n} ${what}${n === 1 ? "" : "s"}`;

export function whyOf(said: Explained): Why {
  const e = said.explanation;
  const side = signOf(e.direction);
  const p = e.thresholds;
  const price = 10 ** said.price_decimals;
  const digits = Math.min(said.price_decimals, 4);
  const score = number(e.score_milli / 1_000, 3);
  const mine = e.parts[side < 0 ? "short" : "long"];
  const stands: string[] = [];
  if (e.reset.phase.startsWith("RESET")) stands.push(`a ${PHASE[e.reset.phase]} of an imbalance led by ${e.reset.led_by}`);
  if (side !== 0 && signOf(e.divergence.armed) === side)
    stands.push(`an armed ${e.divergence.armed_true ? "true" : "relative"} divergence`);
  const yes = (name: string, is: boolean): string => `${name} ${is ? "yes" : "no"}`;
  const { open_interest: interest, reset, divergence, context } = e;
  const range = reset.reset_low
    ? `, range ${number(reset.reset_low / price, digits)} to ${number(reset.reset_high / price, digits)}`
    : "";
  return {
    ts: e.ts,
    title: `${side > 0 ? "Shorts trapped" : side < 0 ? "Longs trapped" : "Nobody trapped"}, score ${score} of 10`,
    sentence: `The score was ${score} (entry from ${p.entry_score}), its direction came from ${e.direction_from === "none" ? "nothing" : `the ${e.direction_from}`}; ${stands.join(" and ") || "no signal"} stood.`,
    score: e.score_milli / 1_000,
    direction: side,
    phase: reset.phase,
    blocked_by: e.blocked_by.map(blockWords),
    parts: [
      {
        label: "Reset deceleration",
        points: mine.reset_deceleration,
        points_max: 3.5,
        text: `${counted(mine.tests, "test")} of the range; adverse flow ${number(mine.adverse_first, 2)} at the first, ${number(mine.adverse_last, 2)} at the last`,
      },
      {
        label: "Absorption",
        points: mine.absorption,
        points_max: 2.5,
        text: `${counted(mine.absorbing_candles.length, "absorbing candle")} of the last three, ${mine.absorbing_with_volume.length} with volume`,
      },
      {
        label: "Failed breakdown",
        points: mine.failed_breakdown,
        points_max: 2,
        text: `${counted(mine.attempts.length, "attempt")} within twelve candles${mine.attempts_falling && mine.attempts.length > 1 ? ", each weaker than the one before" : ""}`,
      },
      {
        label: "Directional bias",
        points: e.parts.directional_bias,
        points_max: 2,
        text: [yes("spot flow", e.parts.bias_spot), yes("perp flow", e.parts.bias_perp), yes("return", e.parts.bias_return)].join(", "),
      },
      {
        label: "Open interest",
        points: interest.vote === "confirms" ? 1 : interest.vote === "denies" ? -1 : 0,
        points_max: 1,
        text: interest.vote,
      },
    ],
    inputs: [
      { label: "Close", text: number(e.row.close / price, digits), known_at: null, threshold: "", met: null },
      {
        label: "Score",
        text: `${score} of 10`,
        known_at: null,
        threshold: `entry from ${p.entry_score}`,
        met: e.score_milli >= 1_000 * p.entry_score,
      },
      {
        label: "Context",
        text: `${number(context.value, 3, true)}: ${TRAPPED[context.direction]} trapped, expected duration ${context.expected_duration.toLowerCase()}`,
        known_at: null,
        threshold: `a side from ±${p.context_enter}`,
        met: context.direction !== "NEUTRAL",
      },
      {
        label: "Reset",
        text: `${PHASE[reset.phase] ?? reset.phase}${range}`,
        known_at: reset.phase_ts || null,
        threshold: `an imbalance from ${p.imbalance_z} swings over 900 s, forgotten after ${number(p.imbalance_expires_s)} s`,
        met: reset.phase.startsWith("RESET"),
      },
      {
        label: "Divergence",
        text:
          divergence.armed === "NEUTRAL"
            ? "none armed"
            : `${divergence.armed_true ? "true" : "relative"}, ${TRAPPED[divergence.armed]} trapped`,
        known_at: divergence.armed === "NEUTRAL" ? null : divergence.held_last_ts || null,
        threshold: `a gap from ${p.divergence_min} of its swings, armed for ${number(p.divergence_armed_s)} s`,
        met: divergence.armed !== "NEUTRAL",
      },
      ...(interest.known_at
        ? [
            {
              label: "Open interest",
              text: `${compact(interest.value / 10 ** said.qty_decimals)} ${said.asset}, ${interest.age_s} s old`,
              known_at: interest.known_at,
              threshold: `at most ${interest.age_s_max} s old`,
              met: !interest.stale_or_missing,
            },
            {
              label: "Open interest, change over 1,800 s",
              text: `${number(interest.z, 2, true)} swings: ${interest.vote}`,
              known_at: interest.known_at,
              threshold: `a vote from ±${p.oi_vote} swings`,
              met: interest.vote !== "silent",
            },
          ]
        : [{ label: "Open interest", text: "none is known", known_at: null, threshold: "without it there is no vote", met: null }]),
      {
        label: "Venues complete",
        text: percent(e.row.quality_ppm / 1e6, 0),
        known_at: null,
        threshold: "80 % in each of the last 60 s",
        met: e.direction === "NEUTRAL" ? null : !e.blocked_by.includes("quality"),
      },
    ],
    windows: Object.entries(e.windows).map(([seconds, w]) => ({
      window_s: Number(seconds),
      spot_usd: w.spot_delta_cents / 100,
      perp_usd: w.perp_delta_cents / 100,
      z_spot: w.z_spot,
      z_perp: w.z_perp,
      gap: w.gap,
      gap_in_swings: w.m,
      price_return: w.return_nano / 1e9,
      z_return: w.z_return,
    })),
  };
}

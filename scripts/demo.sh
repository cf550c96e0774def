#!/usr/bin/env bash
# The main job, end to end, with the commands a person would type. Needs no root and no network.
set -euo pipefail
cd "$(dirname "$0")/.."
export SQUEEZE_HOME="${SQUEEZE_HOME:-$PWD/build/demo}"
PATH="$PWD/.venv/bin:$PATH"

step() { printf '\n\033[1m── %s\033[0m\n' "$1"; }
run() { printf '\033[2m$ %s\033[0m\n' "$*"; "$@"; }

step "1  Real trades: five minutes of BTC on Binance spot, USD-M and COIN-M, 2024-08-08 (hftbacktest's recording, MIT)"
run squeezeflow import tests/fixtures/binance/*.recvts_json.gz
step "2  What spot and perp traders did, second by second"
run squeezeflow flow BTC --from 2024-08-08T23:54:20 --to 2024-08-08T23:59:55
step "3  What is in the store, and how whole it is"
run squeezeflow data
step "4  A simulated market: three days calibrated to measured statistics, with trapped shorts and trapped longs in it"
run squeezeflow simulate --assets BTC --days 5 --seed 7 --world squeeze --start 2026-01-01
step "5  Backtest of its last three days, two processes (the days before are the warm-up)"
run squeezeflow backtest BTC --from 2026-01-03 --to 2026-01-05 --jobs 2 --out build/demo/run
step "6  Why one trade was taken, and why it was left"
run squeezeflow explain last 1
step "7  The report page: what happened, why, what it cost, and how much of it could be luck"
if [ -f libs/squeezeview/src/squeezeview/assets/report.js ]; then
  run squeezeflow report last --placebos 50 --out build/demo/report.html
else
  printf 'The page needs its front end: install Node (Debian: apt install nodejs npm), then make web and make demo again.\nIts figures are there without: squeezeflow report last --json\n'
fi
printf '\nEverything above is under %s. Next: squeezeflow --help\n' "$SQUEEZE_HOME"

"""Live through one schedule of the simulated loop and say what it came to: `python -m tests.soak --seed N`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from simulation import live


def main() -> int:
    """Return 1 when something did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--count", type=int, default=1, help="so many schedules from this seed on")
    asked = parser.parse_args()
    bad = 0
    for seed in range(asked.seed, asked.seed + asked.count):
        outcome = live.run(seed)
        bad += bool(outcome.wrong)
        sys.stdout.write(f"{seed}: {outcome.wrong or 'everything held'}; {outcome._replace(wrong='')}\n")
        sys.stdout.flush()
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Run `squeezeflow up` with tiny services in place of the six: `python up_tiny.py HOME NAME=SETTING:VALUE,… …`.

The names `silent` and `broken` are programs without HTTP: one stays, one ends at once with the exit code it is given.
"""

import os
import sys
from pathlib import Path

from squeezecore.errors import SqueezeError
from squeezeflow import board, up
from squeezeflow.keeping import Program

TINY = Path(__file__).with_name("tiny_service.py")
STAYS = "import time; print('here I am', flush=True); time.sleep(600)"
ENDS = "import os, sys; sys.stderr.write('error: nothing to be done\\n'); sys.exit(int(os.environ['SQUEEZE_CODE']))"


def program(text: str, run: Path) -> Program:
    name, _, rest = text.partition("=")
    given = {
        f"SQUEEZE_{key.upper()}": value for key, _, value in (pair.partition(":") for pair in rest.split(",")) if key
    }
    kind = name.rstrip("0123456789")
    if kind in {"silent", "broken"}:
        return Program(name, ("-c", STAYS if kind == "silent" else ENDS), given)
    return Program(name, (str(TINY),), {**given, "SQUEEZE_RUN_DIR": str(run / name)}, run / name / "tiny.json")


def main() -> int:
    home = Path(sys.argv[1])
    request = up.Request(home=home, source=up.source_of("live"), environment=dict(os.environ))  # noqa: TID251
    programs = [program(text, home / "run" / "tiny") for text in sys.argv[2:]]
    try:
        return up.up(request, board.board(as_json=True), programs)
    except SqueezeError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())

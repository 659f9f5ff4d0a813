"""Make a model that ships of a run: `python tools/ship.py RUN NAME [STORE]`."""

import sys
from pathlib import Path

from foretell.evaluation.pretrained import FOLDER, ship
from foretell.evaluation.recipes import RECIPES

run, name = Path(sys.argv[1]), sys.argv[2]
ship(
    run,
    FOLDER / name,
    seed=0,
    reach=2 * int(RECIPES[name].evaluation.task["offset"]),
    command=f"python -m benchmarks.robots --world {name} --train DIR",
    store=Path(sys.argv[3]) if len(sys.argv) > 3 else None,
    say=lambda what: print(what, flush=True),
)

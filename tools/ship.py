"""Make a model that ships of a run: `python tools/ship.py RUN NAME [STORE]`."""

import sys
from pathlib import Path

from foretell.evaluation.pretrained import FOLDER, ship
from foretell.evaluation.recipes import RECIPES

run, name = Path(sys.argv[1]), sys.argv[2]
reach = 2 * int(RECIPES[name].evaluation.task["offset"])
ship(run, FOLDER / name, seed=0, reach=reach, store=Path(sys.argv[3]) if len(sys.argv) > 3 else None, say=print)

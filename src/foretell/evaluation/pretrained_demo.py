"""The demo of a model that ships: it plans problems that it has never seen, and a page shows how it went."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from foretell.episodes.record import record
from foretell.episodes.store import EpisodeStore
from foretell.evaluation.demo import PICTURE, clear, episode_to_show, peak_memory_mb
from foretell.evaluation.experiment import EPISODES, Listener
from foretell.evaluation.imagination import imagined_rollouts
from foretell.evaluation.pages import report
from foretell.evaluation.pretrained import pretrained
from foretell.evaluation.report import write_json, write_report
from foretell.evaluation.suite import Recorded, evaluate
from foretell.model.latents import encode_episodes
from foretell.model.readout import Readout

PROBLEMS, SHOWN, PICTURES = 20, 6, 60
"""Problems that are planned, those drawn step by step, and episodes recorded to draw what is imagined with."""


def run_pretrained_demo(name: str, out: Path, *, seed: int, listener: Listener) -> dict[str, Any]:
    """Plan problems of the model's own world into the folder `out`: report.html, report.json and a picture.

    Returns what report.json holds. An earlier demo in `out` is replaced. Raises SpecError for a model that does not
    ship, DataError where `out` holds anything else, ForetellError where the world's simulator is not installed.
    """
    started = time.perf_counter()
    made = pretrained(name)
    world = made.world()
    clear(out, listener)
    listener.say(f"recording {PICTURES} episodes of {world.name}, to draw what is imagined with")
    # Apart from those that it was trained on.
    episodes = listener.track(world.episodes(PICTURES, seed=seed + 1_000_000), "recording", PICTURES)
    record((world.spec, episodes), out / EPISODES, episodes=PICTURES)
    store = EpisodeStore(out / EPISODES)
    numbers = range(len(store))
    latents = dict(zip(numbers, encode_episodes(made.model, store, numbers), strict=True))
    recorded = Recorded(store=store, training=numbers, held_out=(), latents=latents)
    config = replace(made.recipe.evaluation, episodes=PROBLEMS, keep=SHOWN, seed=seed)
    evaluation = evaluate(made.model, made.parts, None, world, config, say=listener.say)
    readout = next((p for p in made.parts.values() if isinstance(p, Readout)), None)
    rollouts = imagined_rollouts(made.model, recorded, evaluation.planning, readout)
    seconds = {**evaluation.seconds, "total": time.perf_counter() - started}
    page = report(
        evaluation,
        title=f"{name.replace('_', ' ')}: a pretrained world model plans from pixels",
        summary=f"The model that ships as {name} was asked to reach goals that it knows only as a picture, in problems"
        " that it has never seen.",
        command=f"foretell demo {name} --seed {seed}",
        rollouts=rollouts,
        block=made.model.config.block,
        stages=evaluation.seconds,
        facts={
            "Run": {"model": name, "seed": seed, "problems": PROBLEMS, **config.task},
            "World": dict(world.options),
            "Model": asdict(made.model.config),
        },
        notice=made.model.spec.notice,
    )
    write_report(page, out / "report.html")
    episode_to_show(rollouts, out / PICTURE)
    parameters = sum(p.numel() for p in made.model.parameters())
    result = {
        "model": name,
        "planning": evaluation.planning_json(),
        "forecast": None,
        "plans_leaving_training": evaluation.leaving_json(),
        "parameters": parameters,
        "seconds": seconds,
        "peak_memory_mb": peak_memory_mb(),
    }
    write_json(result, out / "report.json")
    return result

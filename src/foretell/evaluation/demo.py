"""The demo: two rooms from nothing to a report, in minutes on a laptop's CPU."""

from __future__ import annotations

import resource
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from foretell.episodes.table import read_json
from foretell.errors import DataError
from foretell.evaluation.experiment import RUN, Experiment, Finished, Listener, run_experiment
from foretell.evaluation.imagination import imagined_rollouts
from foretell.evaluation.pages import report
from foretell.evaluation.report import Rollout, episode_picture, write_json, write_report
from foretell.evaluation.report_parts import Headline
from foretell.evaluation.suite import EvaluationConfig
from foretell.training import TrainConfig
from foretell.training.log import NAME as LOG
from foretell.training.log import read_log

DEMO = Experiment(
    world="two_rooms",
    episodes=350,
    training=TrainConfig(),
    evaluation=EvaluationConfig(),
)
MARK, PICTURE = "demo.json", "episode.png"
_KIND = {"kind": "foretell demo"}


def run_demo(out: Path, *, seed: int, listener: Listener, settings: Experiment = DEMO) -> dict[str, Any]:
    """Run the demo into the folder `out` and write report.html, report.json and a picture of an episode there.

    Returns what report.json holds.

    An earlier demo in `out` is replaced. Raises DataError where `out` holds anything else, or cannot be written.
    """
    clear(out, listener)
    started = time.perf_counter()
    done = run_experiment(settings, out, seed=seed, listener=listener)
    listener.say("writing the report")
    rollouts = imagined_rollouts(done.model, done.recorded, done.evaluation.planning, done.readout)
    write_report(_page(done, rollouts, out, seed), out / "report.html")
    episode_to_show(rollouts, out / PICTURE)
    seconds = {**done.seconds, "total": time.perf_counter() - started}
    result = _figures(done, seconds)
    write_json(result, out / "report.json")
    return result


def peak_memory_mb() -> float:
    """The most memory this process ever held, MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def clear(out: Path, listener: Listener) -> None:
    """Make `out` an empty folder that is marked as a demo's; DataError where it holds anything but an earlier one."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise DataError(f"{out}: a folder expected; choose another --out")
    if out.exists() and any(out.iterdir()):
        if not (out / MARK).is_file() or read_json(out / MARK).get("kind") != _KIND["kind"]:
            raise DataError(
                f"{out}: a new folder or an earlier demo expected, it holds something else; choose another --out"
            )
        listener.say(f"replacing the earlier demo in {out}")
        # The mark goes last, so that a folder half removed is still known as a demo's.
        for entry in sorted(out.iterdir(), key=lambda p: p.name == MARK):
            try:
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
            except OSError as error:
                raise DataError(f"{entry}: cannot be removed: {error.strerror or error}") from error
    write_json(_KIND, out / MARK)


def _figures(done: Finished, seconds: dict[str, float]) -> dict[str, Any]:
    ahead = done.evaluation.forecast_json()
    assert ahead is not None
    return {
        "planning": done.evaluation.planning_json(),
        "forecast": {
            "horizon": ahead["horizon"],
            "rmse_px": ahead["rmse"],
            "no_change_px": ahead["no_change"],
        },
        "plans_leaving_training": done.evaluation.leaving_json(),
        "train": {
            "seconds": done.seconds["train"],
            "frames_per_second": done.frames_per_second,
            "parameters": done.parameters,
        },
        "seconds": seconds,
        "peak_memory_mb": peak_memory_mb(),
    }


def episode_to_show(rollouts: Sequence[Rollout], path: Path) -> None:
    """The longest of the planned episodes that reached their goal, beside what the model imagined."""
    shown = [r for r in rollouts if r.reached and r.imagined is not None and r.goal is not None]
    if shown:
        longest = max(shown, key=lambda r: len(r.frames))
        assert longest.imagined is not None
        assert longest.goal is not None
        episode_picture(longest.frames, longest.imagined, longest.goal, path)


def _page(done: Finished, rollouts: Sequence[Rollout], out: Path, seed: int) -> Any:
    return report(
        done.evaluation,
        title="Two rooms: a world model from pixels",
        summary=f"foretell recorded {len(done.recorded.store)} random walks in two rooms, learned from the camera"
        " images what moves do, and was then asked to reach goals in the other room that it knows only as a picture.",
        command=f"foretell demo --seed {seed}",
        rollouts=rollouts,
        block=done.model.config.block,
        log=read_log(out / RUN / LOG),
        calibration=done.calibration,
        training=Headline(
            label="Training",
            value=f"{done.seconds['train']:.0f} s",
            note=f"{done.parameters / 1e6:.2f} M parameters, {done.frames_per_second:,.0f} frames a second",
        ),
        stages=done.seconds,
        facts={
            "Run": {"seed": seed, "episodes": len(done.recorded.store), "held out": len(done.recorded.held_out)},
            "World": dict(done.world.options),
            "Model": asdict(done.model.config),
        },
        notice=done.model.spec.notice,
    )

"""The report of an evaluated run: which figures and charts stand where, and how to read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from foretell.evaluation.imagination import READING
from foretell.evaluation.machine import describe_machine, describe_versions
from foretell.evaluation.plan_support import Leaving
from foretell.evaluation.report_parts import (
    Chart,
    Comparison,
    Curve,
    Estimate,
    Headline,
    Histogram,
    Panel,
    Report,
    Rollout,
    Rollouts,
    Section,
    Table,
    format_value,
)
from foretell.evaluation.suite import FLOORS, Evaluation
from foretell.trust.support import KINDS, Leaves

_TERMS = ("prediction", "sigreg", "context", "inverse", "straight", "variance", "covariance")


def report(
    made: Evaluation,
    *,
    title: str,
    summary: str = "",
    command: str = "",
    rollouts: Sequence[Rollout] = (),
    block: int = 1,
    log: Sequence[Mapping[str, Any]] = (),
    calibration: Mapping[str, Any] | None = None,
    training: Headline | None = None,
    stages: Mapping[str, float] | None = None,
    facts: Mapping[str, Mapping[str, Any]] | None = None,
    notice: str = "",
) -> Report:
    """The page. log: records of training. stages: seconds of each stage. notice: of the world's spec."""
    sections = [_planning(made, rollouts, block), _forecasting(made, calibration), training_section(log, stages)]
    heads = _headlines(made)
    return Report(
        title=title,
        summary=summary,
        command=command,
        headlines=[*heads, training] if training is not None else heads,
        sections=[s for s in sections if s.panels],
        facts={**(facts or {}), "Machine": describe_machine(), "Versions": describe_versions()},
        notice=notice,
    )


def _headlines(made: Evaluation) -> list[Headline]:
    low, high = (100 * v for v in made.planning.interval)
    median, late = np.quantile(made.replan_ms, [0.5, 0.95])
    heads = [
        Headline(
            label="Goals reached",
            value=format_value(made.planning.success, "share"),
            note=f"95% interval {low:.1f} to {high:.1f}%, {len(made.planning.solved)} held-out starts and goals",
        )
    ]
    ahead = made.forecast_json()
    if ahead is not None:
        heads.append(
            Headline(
                label=f"Forecast error, {ahead['horizon']} steps ahead",
                value=format_value(ahead["rmse"], ahead["unit"]),
                note=f"'nothing changes': {format_value(ahead['no_change'], ahead['unit'])}",
            )
        )
    heads.append(
        Headline(label="Replanning", value=f"{median:.0f} ms", note=f"median; 95% of the time below {late:.0f} ms")
    )
    return heads


def _planning(made: Evaluation, rollouts: Sequence[Rollout], block: int) -> Section:
    panels: list[Panel] = []
    if rollouts:
        panels.append(
            Rollouts(
                title="Planned episodes beside what the model imagined",
                reading=READING.format(block=block),
                rollouts=list(rollouts),
                labels=("happened", "imagined (nearest recorded image)", "goal"),
            )
        )
    panels.append(
        Comparison(
            title="Goals reached",
            unit="share",
            reading="The dot is the share of problems solved within their budget of steps, the bar its 95% interval"
            " (Wilson). The grey rows are floors: what the same problems give without a world model.",
            estimates=[
                Estimate(name="planning", value=made.planning.success, interval=made.planning.interval),
                *(
                    Estimate(name=FLOORS.get(n, n), value=f.success, interval=f.interval, role="baseline")
                    for n, f in made.floors.items()
                ),
            ],
        )
    )
    panels.append(
        Histogram(
            title="Time to replan",
            values=made.replan_ms,
            x_label="milliseconds from observation to plan",
            unit="ms",
            reading="One problem at a time, on this machine.",
        )
    )
    if made.leaving is not None:
        panels.append(_leaving(made.leaving, len(rollouts)))
    return Section(
        title="Planning",
        reading="The goal is given as an observation. The controller imagines many plans with the model, executes the"
        " first actions of the best, looks, and plans again.",
        panels=panels,
    )


def _leaving(leaving: Leaving, shown: int) -> Table:
    """Where plans leave training: all of them counted, and the first ones of the episodes shown above."""
    rows = [
        [f"all {leaving.plans:,} plans", "", f"{format_value(len(steps) / leaving.plans, 'share')} leave the {what}"]
        for what in KINDS
        for steps in [leaving.of(what)]
    ]
    first: dict[int, tuple[int, tuple[Leaves, ...]]] = {}
    for problem, step, left in leaving.found:
        if problem < shown:
            first.setdefault(problem, (step, left))
    rows += [[f"episode {i + 1}", f"step {step}", "; ".join(map(str, left))] for i, (step, left) in first.items()]
    return Table(
        title="Plans that leave training",
        columns=["of", "planned at", "where"],
        rows=rows,
        reading=f"Of plans like the recorded episodes at most {format_value(leaving.level, 'share')} would be told to"
        " leave the states, or the actions in states like these, that training covered. A plan that does is not wrong,"
        " only less sure. Of each episode shown above the first such plan.",
    )


def _forecasting(made: Evaluation, calibration: Mapping[str, Any] | None) -> Section:
    ahead = made.forecast_json()
    panels: list[Panel] = []
    if ahead is not None:
        by, unit = ahead["by_horizon"], ahead["unit"]
        band = np.asarray(by["interval"], np.float64)
        panels.append(
            Chart(
                title="Forecast error by horizon",
                x_label="steps ahead",
                y_label=f"error of {ahead['channel']} ({unit})",
                reading=f"Open loop: the model sees the start and the actions, never the outcome. Root of the mean"
                f" squared distance over {ahead['contexts']} stretches of {ahead['episodes']} held-out episodes; the"
                " band is its 95% interval over episodes. The dashed line forecasts that nothing changes.",
                curves=[
                    Curve(name="model", x=by["horizons"], y=by["rmse"], low=band[:, 0], high=band[:, 1]),
                    Curve(name="nothing changes", x=by["horizons"], y=by["no_change"], role="baseline"),
                ],
            )
        )
    if calibration is not None:
        numbers = np.array(calibration["half_width"], np.float64)
        held = calibration["mean_coverage"]
        panels.append(
            Chart(
                title=f"Half-width of {100 * calibration['level']:.0f}% intervals",
                x_label="steps ahead",
                y_label=f"± {calibration['units'][0]}",
                reading=f"Split conformal, from {calibration['episodes']['fitted']} held-out episodes. On"
                f" {calibration['episodes']['checked']} others the intervals held"
                f" {format_value(float('nan') if held is None else held, 'share')} of the outcomes.",
                curves=[
                    Curve(
                        name=name,
                        x=calibration["horizons"],
                        y=numbers[:, i],
                        role="model" if i == 0 else "other",
                    )
                    for i, name in enumerate(calibration["fields"])
                ],
            )
        )
    return Section(title="Forecasting", panels=panels)


def training_section(log: Sequence[Mapping[str, Any]], stages: Mapping[str, float] | None) -> Section:
    """Losses, latent spread and times; arguments as in `report`."""
    panels: list[Panel] = []
    if log:
        steps = [r["step"] for r in log]
        terms = [t for t in _TERMS if any(t in r for r in log)]
        panels.append(
            Chart(
                title="Losses",
                x_label="step",
                y_label="loss",
                log=True,
                reading="Each term unweighted. They fall and level off; a prediction loss near zero under a falling"
                " latent spread is a collapse, not a success.",
                curves=[
                    Curve(
                        name=t,
                        x=steps,
                        y=[float(r.get(t, "nan")) for r in log],
                        role="model" if t == "prediction" else "other",
                    )
                    for t in terms
                ],
            )
        )
        panels.append(
            Chart(
                title="Latent spread",
                x_label="step",
                y_label="standard deviation",
                reading="How much the latents of different observations differ. Training stops where it collapses.",
                curves=[Curve(name="latent spread", x=steps, y=[float(r.get("spread", "nan")) for r in log])],
            )
        )
    if stages:
        panels.append(
            Table(
                title="Where the time went",
                columns=["stage", "seconds"],
                rows=[[name, f"{value:.1f}"] for name, value in stages.items()],
            )
        )
    return Section(title="Training", panels=panels)

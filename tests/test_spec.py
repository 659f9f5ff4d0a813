"""Specs and episodes: what does not fit is refused by name, what fits survives JSON, differences are all named."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell.errors import ForetellError, SpecError
from foretell.spec import ActionSpec, Channel, Episode, Spec, check_actions

NAMES = st.text("abcXYZ019_-.", min_size=1, max_size=6)
SIZES = st.integers(1, 5)
TEXT = st.text(max_size=6)


@st.composite
def channels(draw: st.DrawFn, name: str, kinds: tuple[str, ...] = ("image", "vector", "waveform")) -> Channel:
    kind = draw(st.sampled_from(kinds))
    count = {"image": 3, "vector": 1, "waveform": 2}[kind]
    shape = tuple(draw(st.lists(SIZES, min_size=count, max_size=count)))
    if kind == "image":
        return Channel(name=name, kind="image", shape=shape)
    fields = draw(st.lists(TEXT, min_size=shape[0], max_size=shape[0], unique=True)) if draw(st.booleans()) else ()
    units = draw(st.lists(TEXT, min_size=shape[0], max_size=shape[0])) if draw(st.booleans()) else ()
    return Channel(name=name, kind=kind, shape=shape, fields=tuple(fields), units=tuple(units))  # type: ignore[arg-type]


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    names = draw(st.lists(NAMES.filter(lambda n: n != "action"), min_size=1, max_size=4, unique=True))
    seen = draw(st.integers(1, len(names)))
    acts = draw(st.lists(TEXT, max_size=3, unique=True))
    low = [draw(st.floats(-1e6, 1e6) | st.just(-math.inf)) for _ in acts]
    high = [draw(st.just(math.inf) | st.floats(0.1, 1e6).map(lambda w, b=b: max(b, -1e6) + w)) for b in low]
    return Spec(
        observations=tuple(draw(channels(n)) for n in names[:seen]),
        action=ActionSpec(
            names=tuple(acts),
            low=tuple(low),
            high=tuple(high),
            safe=tuple(np.clip(0.0, low, high).tolist()) if draw(st.booleans()) else None,
        ),
        hz=draw(st.floats(1e-6, 1e6)),
        quantities=tuple(draw(channels(n, ("vector",))) for n in names[seen:]),
    )


CAMERA = Channel(name="camera", kind="image", shape=(4, 5, 3))
STATE = Channel(name="state", kind="vector", shape=(2,), fields=("x", "y"), units=("m", "m"))
SOUND = Channel(name="sound", kind="waveform", shape=(1, 6))
LEVEL = Channel(name="level", kind="vector", shape=(1,))
SPEC = Spec(
    observations=(CAMERA, STATE, SOUND),
    action=ActionSpec(names=("push", "turn"), units=("N", ""), low=(-1.0, 0.0), high=(1.0, math.inf)),
    hz=5.0,
    quantities=(LEVEL,),
)


class TestSpec:
    @given(spec=specs())
    @settings(max_examples=60, deadline=None)
    def test_survives_json(self, spec: Spec) -> None:
        again = Spec.from_json(json.loads(json.dumps(spec.to_json(), allow_nan=False)))
        assert again == spec
        assert hash(again) == hash(spec)
        assert spec.differences(again) == []
        spec.require(again, "here")

    @given(spec=specs(), other=specs(), part=st.sampled_from(["observations", "action", "hz", "quantities", None]))
    @settings(max_examples=60, deadline=None)
    def test_differs_if_and_only_if_a_difference_is_named(self, spec: Spec, other: Spec, part: str | None) -> None:
        if part in ("action", "hz"):
            other = replace(spec, **{part: getattr(other, part)})
        elif part is not None:
            other = replace(spec, **{part: getattr(spec, part)[::-1]})

        def plain(s: Spec) -> Any:
            whole = {"action": (s.action.names, s.action.units, s.action.low, s.action.high), "hz": s.hz}
            return whole | {kind: {c.name: c for c in getattr(s, kind)} for kind in ("observations", "quantities")}

        assert (spec.differences(other) == []) == (plain(spec) == plain(other))
        assert len(spec.differences(other)) >= (plain(spec) != plain(other))

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            ({"hz": 10.0}, ["5 steps per second expected, got 10"]),
            ({"observations": (CAMERA, STATE)}, ["observation sound is missing"]),
            ({"quantities": ()}, ["quantity level is missing"]),
            (
                {"observations": (CAMERA, STATE, SOUND, Channel(name="more", kind="vector", shape=(1,)))},
                ["observation more is unknown"],
            ),
            (
                {"observations": (replace(CAMERA, shape=(4, 4, 3)), STATE, SOUND)},
                ["camera: shape (4, 5, 3) expected, got (4, 4, 3)"],
            ),
            (
                {"observations": (CAMERA, replace(STATE, units=("m", "ft")), SOUND)},
                ["state: units ('m', 'm') expected, got ('m', 'ft')"],
            ),
            ({"action": ActionSpec()}, ["action names ('push', 'turn') expected, got ()", "units", "low", "high"]),
        ],
    )
    def test_each_difference_is_named(self, change: dict[str, Any], expected: list[str]) -> None:
        found = SPEC.differences(replace(SPEC, **change))
        assert len(found) == len(expected)
        assert all(e in f for e, f in zip(expected, found, strict=True))
        with pytest.raises(SpecError, match=r"^store: [^\n]+$"):
            SPEC.require(replace(SPEC, **change), "store")

    def test_order_of_channels_is_no_difference(self) -> None:
        assert SPEC.differences(replace(SPEC, observations=SPEC.observations[::-1])) == []

    def test_channels_by_name(self) -> None:
        assert SPEC.channel("sound") is SOUND
        assert SPEC.channel("level") is LEVEL
        with pytest.raises(
            SpecError, match=r"no channel 'lever'; the spec has \['camera', 'state', 'sound', 'level'\]"
        ):
            SPEC.channel("lever")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"observations": ()}, "at least one observation"),
            ({"observations": (STATE, STATE)}, "names must differ"),
            ({"quantities": (STATE,)}, "names must differ"),
            ({"quantities": (replace(CAMERA, name="other"),)}, "quantities must be vectors"),
            ({"observations": (replace(STATE, name="action"),)}, "must not be named 'action'"),
            ({"hz": 0.0}, "hz must be a positive number"),
            ({"hz": math.nan}, "hz must be a positive number"),
            ({"hz": math.inf}, "hz must be a positive number"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises(SpecError, match=message):
            replace(SPEC, **change)


class TestFromJson:
    LEAVES = st.one_of(
        st.none(), st.booleans(), st.integers(-2, 9), st.floats(), st.text(max_size=3), st.just([]), st.just({})
    )

    @staticmethod
    def paths(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
        return [p for key, value in items for p in [(*path, key), *TestFromJson.paths(value, (*path, key))]]

    @given(data=st.data())
    @settings(max_examples=300, deadline=None)
    def test_whatever_one_value_is_replaced_by_is_a_spec_or_refused_in_one_line(self, data: st.DataObject) -> None:
        content = SPEC.to_json()
        content["action"]["safe"] = [0.0, 0.0]
        *path, last = data.draw(st.sampled_from(self.paths(content)))
        place: Any = content
        for key in path:
            place = place[key]
        if data.draw(st.booleans()):
            place[last] = data.draw(self.LEAVES)
        else:
            del place[last]
        try:
            spec = Spec.from_json(content)
        except SpecError as error:
            assert "\n" not in str(error)  # noqa: PT017 - either outcome is right
        else:
            assert Spec.from_json(json.loads(json.dumps(spec.to_json()))) == spec

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            (("observations", 0, "shape"), "453"),
            (("observations", 0, "shape", 0), 4.5),
            (("observations", 1, "shape", 0), True),
            (("observations", 1, "fields", 0), 1),
            (("observations", 1, "units", 0), None),
            (("action", "names"), "ab"),
            (("action", "low", 0), "-1"),
            (("hz",), "fast"),
        ],
    )
    def test_values_of_another_type_are_refused(self, path: tuple[Any, ...], value: Any) -> None:
        content: Any = SPEC.to_json()
        place = content
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        with pytest.raises(SpecError, match=r"^not a spec: [^\n]+$"):
            Spec.from_json(content)

    @pytest.mark.parametrize("content", [{}, [], None, 3, "spec", {"observations": 3}])
    def test_what_is_no_spec_is_refused(self, content: Any) -> None:
        with pytest.raises(SpecError, match=r"^not a spec: "):
            Spec.from_json(content)


class TestChannel:
    def test_fields_and_units_are_filled_in(self) -> None:
        assert SOUND.fields == ("sound_0",)
        assert SOUND.units == ("",)
        assert Channel(name="v", kind="vector", shape=[2], fields=["a", "b"]).fields == ("a", "b")  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"name": ""}, "expected letters, digits"),
            ({"name": "a/b"}, "expected letters, digits"),
            ({"name": "a\nb"}, "expected letters, digits"),
            ({"kind": "sound"}, "kind must be one of"),
            ({"shape": ()}, "a vector needs a shape of 1 positive sizes"),
            ({"shape": (2, 2)}, "a vector needs a shape of 1 positive sizes"),
            ({"shape": (0,)}, "a vector needs a shape of 1 positive sizes"),
            ({"fields": ("x",)}, "2 fields expected for shape (2,), got 1"),
            ({"units": ("m",) * 3}, "2 units expected for shape (2,), got 3"),
            ({"fields": ("x", "x")}, "field names must differ"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises(SpecError) as caught:
            replace(STATE, **change)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_images_have_no_fields(self) -> None:
        with pytest.raises(SpecError, match="channel camera: an image has no fields or units"):
            replace(CAMERA, fields=("r", "g", "b"))


class TestActions:
    def test_bounds_and_units_are_filled_in(self) -> None:
        action = ActionSpec(names=("a", "b"))
        assert (action.low, action.high) == ((-math.inf,) * 2, (math.inf,) * 2)
        assert action.units == ("", "")
        assert (action.size, ActionSpec().size) == (2, 0)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"names": ("a", "a")}, "action names must differ"),
            ({"units": ("m",)}, "2 units expected, got 1"),
            ({"low": (0.0,)}, "2 low expected, got 1"),
            ({"low": (1.0, 0.0), "high": (1.0, 1.0)}, "action push: low 1.0 must be below high 1.0"),
            ({"low": (math.nan, 0.0)}, "action push: low nan must be below"),
            ({"safe": (0.0,)}, "a safe action of 2 values expected, got 1"),
            ({"safe": (0.0, math.nan)}, "safe action"),
            ({"safe": (0.0, -1.0)}, "safe action"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises(SpecError, match=message):
            replace(SPEC.action, **change)

    @given(low=st.floats(-1e3, 1e3), width=st.floats(0.1, 1e3), at=st.floats(-2, 3), dtype=st.sampled_from("fd"))
    @settings(max_examples=60, deadline=None)
    def test_bounds_are_kept_up_to_rounding(self, low: float, width: float, at: float, dtype: str) -> None:
        action = ActionSpec(names=("a",), low=(low,), high=(low + width,))
        values = np.array([[low + at * width]], dtype)
        if 0 <= at <= 1:
            check_actions(action, values, "here")
        elif at < -0.01 or at > 1.01:
            with pytest.raises(SpecError, match=r"^here: action a must be within "):
                check_actions(action, values, "here")

    def test_no_actions_are_within_every_bound(self) -> None:
        check_actions(SPEC.action, np.zeros((0, 2)), "here")
        check_actions(ActionSpec(), np.zeros((5, 0)), "here")


def episode(steps: int = 4, **change: Any) -> Episode:
    observations = {
        "camera": np.zeros((steps, 4, 5, 3), np.uint8),
        "state": np.zeros((steps, 2), np.float32),
        "sound": np.zeros((steps, 1, 6)),
        "level": np.zeros((steps, 1), np.int64),
    }
    given_ = {"observations": observations, "actions": np.zeros((max(0, steps - 1), 2)), **change}
    given_["observations"] = {n: v for n, v in (observations | given_["observations"]).items() if v is not None}
    return Episode(**given_)


class TestEpisode:
    @pytest.mark.parametrize("steps", [1, 2, 7])
    def test_what_fits_is_taken(self, steps: int) -> None:
        made = episode(steps, times=np.arange(steps))
        assert len(made) == steps
        made.check(SPEC, "here")
        episode(steps, valid={"camera": np.zeros(steps, bool), "state": np.zeros((steps, 2), bool)}).check(SPEC, "here")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"observations": {"sound": None}}, "channel sound is missing"),
            ({"observations": {"more": np.zeros((4, 1))}}, "channel more is not in the spec"),
            ({"observations": {"state": np.zeros((4, 3))}}, "channel state of shape (4, 2) expected, got (4, 3)"),
            ({"observations": {"state": np.zeros((3, 2))}}, "channel state of shape (4, 2) expected, got (3, 2)"),
            ({"observations": {"camera": np.zeros((4, 4, 5, 3))}}, "channel camera must be uint8"),
            ({"observations": {"camera": np.zeros((4, 4, 5, 3), np.uint16)}}, "got uint16"),
            ({"observations": {"state": np.zeros((4, 2), bool)}}, "channel state must be numbers, got bool"),
            ({"observations": {"state": np.full((4, 2), "a")}}, "channel state must be numbers"),
            ({"observations": {"sound": np.full((4, 1, 6), np.nan)}}, "sound holds NaN or infinity at step 0"),
            ({"actions": np.zeros((4, 2))}, "actions of shape (3, 2) expected for 4 steps, got (4, 2)"),
            ({"actions": np.zeros((3, 1))}, "actions of shape (3, 2) expected for 4 steps, got (3, 1)"),
            ({"actions": np.zeros((3, 2), complex)}, "actions must be numbers, got complex"),
            ({"actions": np.full((3, 2), np.nan)}, "actions must be finite"),
            ({"actions": np.full((3, 2), 1.5)}, "action push must be within [-1, 1], got [1.5, 1.5]"),
            (
                {"valid": {"state": np.ones((4, 3), bool)}},
                "the mask of channel state must be bool of shape (4,) or (4, 2)",
            ),
            ({"valid": {"state": np.ones((4, 2))}}, "got float64 (4, 2)"),
            (
                {"valid": {"camera": np.ones((4, 3), bool)}},
                "the mask of channel camera must be bool of shape (4,), got",
            ),
            ({"valid": {"stat": np.ones(4, bool)}}, "the mask of channel stat, which is not in the spec"),
            ({"times": np.arange(3)}, "4 times expected, got shape (3,)"),
            ({"times": np.array([0, 2, 1, 3])}, "times must not run backwards"),
            ({"times": np.array([0.0, 1.0, math.nan, 3.0])}, "times"),
            ({"times": np.array([0.0, 1.0, 2.0, math.inf])}, "times"),
            ({"times": np.array([2**53 + 1, 2**53, 2**53 + 2, 2**53 + 3])}, "times must not run backwards"),
            ({"times": np.array([3, 2, 4, 5], np.uint64)}, "times must not run backwards"),
        ],
    )
    def test_what_does_not_fit_is_refused_by_name(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises(SpecError) as caught:
            episode(**change).check(SPEC, "episode 3")
        assert str(caught.value).startswith("episode 3: ")
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_nothing_observed_is_a_missing_channel(self) -> None:
        with pytest.raises(SpecError, match="here: channel camera is missing"):
            Episode(observations={}, actions=np.zeros((0, 2))).check(SPEC, "here")
        with pytest.raises(SpecError, match=r"^here: [^\n]+$"):
            episode(0).check(SPEC, "here")

    @given(data=st.data(), bad=st.sampled_from([np.nan, np.inf, -np.inf]))
    @settings(max_examples=40, deadline=None)
    def test_nan_and_infinity_are_taken_only_where_the_mask_says_missing(self, data: st.DataObject, bad: float) -> None:
        step, field = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 1))
        state, sound = np.zeros((4, 2)), np.zeros((4, 1, 6))
        state[step, field] = bad
        sound[step, 0, 3] = bad
        whole, fields = np.ones(4, bool), np.ones((4, 2), bool)
        whole[step] = fields[step, field] = False
        for masks in ({"state": whole, "sound": whole}, {"state": fields, "sound": whole[:, None]}):
            episode(observations={"state": state, "sound": sound}, valid=masks).check(SPEC, "here")
            shifted = {n: np.roll(m, 1, 0) for n, m in masks.items()}
            with pytest.raises(SpecError, match=f"state holds NaN or infinity at step {step}"):
                episode(observations={"state": state, "sound": sound}, valid=shifted).check(SPEC, "here")


def test_every_error_is_one_that_a_user_can_act_on() -> None:
    assert issubclass(SpecError, ForetellError)
    assert SpecError.exit_code == 2


def test_actions_that_nobody_chooses_are_named_and_kept() -> None:
    actions = ActionSpec(names=("dose", "meal"), low=(1.0, 0.0), high=(2.0, 9.0), exogenous=("meal",))
    assert actions.chosen == (True, False)
    assert actions.still.tolist() == [1.0, 0.0]
    spec = Spec(observations=(Channel(name="x", kind="vector", shape=(1,)),), action=actions)
    assert Spec.from_json(spec.to_json()) == spec
    older = spec.to_json()
    del older["action"]["exogenous"]
    assert spec.differences(Spec.from_json(older)) == ["action exogenous ('meal',) expected, got ()"]
    with pytest.raises(SpecError, match=r"exogenous ones among \['dose'\] expected, got \['meal'\]"):
        ActionSpec(names=("dose",), exogenous=("meal",))


def test_a_notice_travels_with_a_spec_and_tells_no_two_apart() -> None:
    plain = Spec(observations=(Channel(name="x", kind="vector", shape=(1,)),))
    noted = replace(plain, notice=" Not for\nuse. ")
    assert noted.notice == "Not for use."
    assert Spec.from_json(json.loads(json.dumps(noted.to_json()))).notice == "Not for use."
    assert noted == plain
    plain.require(noted, "a store")
    # As stores of before had it.
    assert "notice" not in plain.to_json()
    with pytest.raises(SpecError, match="a notice must be a text, got 3"):
        Spec.from_json({**plain.to_json(), "notice": 3})

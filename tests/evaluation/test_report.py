"""Reports: self-contained, escaped, complete; charts that put values where they belong."""

import base64
import io
import json
import math
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from foretell.errors import DataError
from foretell.evaluation.report import (
    Chart,
    Comparison,
    Curve,
    Estimate,
    Headline,
    Histogram,
    Report,
    Rollout,
    Rollouts,
    Section,
    Table,
    episode_picture,
    format_value,
    rollouts_from_arrays,
    write_json,
    write_report,
)
from foretell.evaluation.report_charts import Scale, log_ticks, ticks

VOID = {"meta", "link", "img", "input", "br", "hr", "line", "circle", "rect", "polyline", "polygon"}


class Page(HTMLParser):
    """Reads a page, checks that its elements close in order, and keeps texts and attributes."""

    def __init__(self, text):
        super().__init__()
        self.open, self.attributes, self.texts, self.scripts = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, k, v) for k, v in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, k, v) for k, v in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        (self.scripts if self.open and self.open[-1] in ("script", "style") else self.texts).append(data)


def rollout(rng, steps=5, **changes):
    frames = rng.integers(0, 255, (steps, 8, 8, 3), dtype=np.uint8)
    return Rollout(
        **({"frames": frames, "imagined": frames[::-1], "goal": frames[0], "caption": "Episode 1"} | changes)
    )


def report(rng, text="plain"):
    x = np.arange(1, 51)
    plans = np.full((5, 3, 2), np.nan)
    panels = (
        Rollouts(
            title=f"Episodes {text}",
            rollouts=[rollout(rng, path=np.zeros((5, 2)), plans=plans, reached=True, caption=text)],
        ),
        Comparison(
            title=text,
            unit="share",
            estimates=[
                Estimate(name=text, value=0.984, interval=(0.93, 0.99)),
                Estimate(name="random", value=0.03, role="baseline"),
            ],
        ),
        Chart(title=text, x_label=text, y_label=text, curves=[Curve(name=text, x=x, y=x * 0.5, low=x * 0.4, high=x)]),
        Histogram(title=text, values=np.linspace(20, 40, 50), x_label=text, unit="ms"),
        Table(title=text, columns=[text, "seconds"], rows=[["train", "112.4"]]),
    )
    return Report(
        title=text,
        summary=text,
        command=text,
        headlines=[Headline(label=text, value="98.4%", note=text)],
        sections=[Section(title=text, panels=panels, reading=text)],
        facts={text: {"seed": 7, text: text}},
    )


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_page_is_self_contained_and_well_formed(tmp_path, rng):
    path = tmp_path / "new" / "report.html"
    write_report(report(rng), path)
    page = Page(path.read_text())
    loaded = [v for _, k, v in page.attributes if k in ("src", "href", "action", "data", "srcset")]
    assert [v for v in loaded if not v.startswith("data:")] == []
    assert not re.search(r"@import|url\(|fetch\(|https?://(?!www\.w3\.org/2000/svg)", path.read_text())
    assert any("default-src 'none'" in (v or "") for _, _, v in page.attributes)
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_page_shows_the_values_given(tmp_path, rng):
    write_report(report(rng), tmp_path / "r.html")
    text = " ".join(Page((tmp_path / "r.html").read_text()).texts)
    for expected in ("98.4%", "93% to 99%", "3%", "112.4", "median 30 ms", "seed", "7", "foretell"):
        assert expected in text


def test_a_notice_stands_above_all_else(tmp_path, rng):
    write_report(replace(report(rng), notice="Not for <b>use</b>."), tmp_path / "r.html")
    source = (tmp_path / "r.html").read_text()
    assert source.index("Not for &lt;b&gt;use&lt;/b&gt;.") < source.index("<header>")
    write_report(report(rng), tmp_path / "r.html")
    assert 'class="notice"' not in (tmp_path / "r.html").read_text()


def test_a_table_that_half_a_page_does_not_hold_is_wide(tmp_path):
    short, long = ([["name", "1.0"] * n] for n in (2, 6))
    tables = [Table(title="t", columns=["column", "value"] * (len(r[0]) // 2), rows=r) for r in (short, long)]
    assert [t.wide for t in tables] == [False, True]


def test_every_text_is_escaped(tmp_path, rng):
    nasty = "</script><img src=x onerror=alert(1)>&\"'"
    write_report(report(rng, nasty), tmp_path / "r.html")
    source = (tmp_path / "r.html").read_text()
    page = Page(source)
    assert "<img" not in source
    assert not [k for _, k, _ in page.attributes if k.startswith("on")]
    assert sum(nasty in t for t in page.texts) >= 10
    embedded = [json.loads(s) for s in page.scripts if s.startswith("{")]
    assert embedded[0]["rollouts"][0]["caption"] == nasty
    assert embedded[1]["curves"][0]["name"] == nasty


def test_frames_come_back_from_the_page_unchanged(tmp_path, rng):
    given_ = rollout(rng, plans=np.full((5, 2, 2), 1.5))
    write_report(
        Report(title="t", sections=[Section(title="s", panels=[Rollouts(title="r", rollouts=[given_])])]),
        tmp_path / "r.html",
    )
    scripts = Page((tmp_path / "r.html").read_text()).scripts
    data = json.loads(next(s for s in scripts if s.startswith("{")))["rollouts"][0]
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(data["sheet"].split(",")[1]))).convert("RGB"))
    cells = [sheet[i // data["columns"] * 8 :, i % data["columns"] * 8 :][:8, :8] for i in range(11)]
    assert (np.stack(cells[:5]) == given_.frames).all()
    assert (np.stack(cells[5:10]) == given_.imagined).all()
    assert (cells[10] == given_.goal).all()
    assert data["plans"] == [[[1.5, 1.5]] * 2] * 5


def test_large_noisy_frames_stay_below_four_megabytes(tmp_path, rng):
    episodes = rollouts_from_arrays(
        rng.integers(0, 255, (4, 30, 224, 224, 3), dtype=np.uint8), lengths=[30, 30, 30, 12]
    )
    assert [len(e.frames) for e in episodes] == [30, 30, 30, 12]
    write_report(
        Report(title="t", sections=[Section(title="s", panels=[Rollouts(title="r", rollouts=episodes)])]),
        tmp_path / "r.html",
    )
    assert (tmp_path / "r.html").stat().st_size < 4_000_000


def test_curves_with_gaps_and_logarithms_are_drawn_in_pieces(tmp_path):
    y = [1.0, 0.5, math.nan, 0.1, 0.0, 0.2]
    chart = Chart(
        title="c",
        x_label="x",
        y_label="y",
        log=True,
        curves=[Curve(name="a", x=range(6), y=y, low=np.zeros(6), high=y)],
    )
    empty = Chart(title="e", x_label="x", y_label="y", curves=[Curve(name="a", x=[], y=[])])
    write_report(Report(title="t", sections=[Section(title="s", panels=[chart, empty])]), tmp_path / "r.html")
    source = (tmp_path / "r.html").read_text()
    assert source.count('<polyline class="line model"') == 1
    assert source.count('<circle class="line model"') == 2
    assert "nan" not in source.split("<body>")[1].split('<script>\n"use strict"')[0].lower()
    assert "No values were recorded." in source


def test_reports_that_make_no_sense_are_refused(rng):
    with pytest.raises(ValueError, match=r"curve loss: y of shape \(3,\) expected"):
        Curve(name="loss", x=[1, 2, 3], y=[1, 2])
    with pytest.raises(ValueError, match="low and high come together"):
        Curve(name="loss", x=[1], y=[1], low=[0])
    with pytest.raises(ValueError, match="imagined of shape"):
        rollout(rng, imagined=np.zeros((4, 8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="uint8 expected"):
        rollout(rng, goal=np.zeros((8, 8, 3)))
    with pytest.raises(ValueError, match="path with 5 steps"):
        rollout(rng, path=np.zeros((4, 2)))
    with pytest.raises(ValueError, match="2 cells a row"):
        Table(title="t", columns=["a", "b"], rows=[["1"]])


@pytest.mark.parametrize(("cell", "wide"), [("112.4", False), ("plan leaves the states of training at step 12", True)])
def test_a_table_of_sentences_takes_the_whole_width(cell: str, wide: bool, tmp_path):
    table = Table(title="t", columns=["of", "where"], rows=[["all", "3"], ["one", cell]])
    write_report(Report(title="t", sections=[Section(title="s", panels=[table])]), tmp_path / "r.html")
    assert ('<article class="panel wide"><h3>t</h3>' in (tmp_path / "r.html").read_text()) == wide


def test_json_is_replaced_in_one_step_and_holds_no_nan(tmp_path):
    path = tmp_path / "report.json"
    write_json({"a": 1}, path)
    with pytest.raises(TypeError):
        write_json({"a": object()}, path)
    assert json.loads(path.read_text()) == {"a": 1}
    write_json({"a": {"b": np.float32(0.5), "c": [math.nan, np.array([1, 2])]}, "p": tmp_path}, path)
    assert json.loads(path.read_text()) == {"a": {"b": 0.5, "c": [None, [1, 2]]}, "p": str(tmp_path)}
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/report\.json: cannot be written"):
        write_json({}, tmp_path / "file" / "report.json")


def test_picture_shows_the_episode_above_the_imagined_one(tmp_path):
    real = np.zeros((10, 16, 16, 3), np.uint8)
    real[..., 0] = 200
    imagined = np.zeros_like(real)
    imagined[..., 2] = 200
    episode_picture(real, imagined, real[0], tmp_path / "p.png", columns=4)
    picture = np.asarray(Image.open(tmp_path / "p.png"))
    red = (picture == (200, 0, 0)).all(-1)
    blue = (picture == (0, 0, 200)).all(-1)
    assert abs(red.sum() / blue.sum() - 5 / 4) < 0.01
    assert np.flatnonzero(red.any(1)).max() < np.flatnonzero(blue.any(1)).min()
    with pytest.raises(ValueError, match="one shape"):
        episode_picture(real, imagined[:3], real[0], tmp_path / "p.png")


@given(low=st.floats(-1e6, 1e6), size=st.floats(1e-3, 1e6))
def test_ticks_are_few_round_and_within_the_limits(low, size):
    found = ticks(low, low + size)
    steps = np.diff(found)
    assert 2 <= len(found) <= 7
    assert all(low - 1e-6 * size <= t <= low + size * (1 + 1e-6) for t in found)
    assert np.allclose(steps, steps[0], rtol=1e-3)


@given(low=st.floats(-8, 5), decades=st.floats(0.5, 12))
def test_logarithmic_ticks_are_few_and_within_the_limits(low, decades):
    found = log_ticks(10**low, 10 ** (low + decades))
    assert 1 <= len(found) <= 7
    assert all(10**low * 0.999 <= t <= 10 ** (low + decades) * 1.001 for t in found)


def test_scale_maps_ends_to_ends():
    assert Scale(0, 10, 100, 0)(np.array([0.0, 5.0, 10.0])).tolist() == [100, 50, 0]
    assert Scale(0.1, 1000, 0, 4, log=True)(np.array([0.1, 1.0, 1000.0])) == pytest.approx([0, 1, 4])


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.98, "share", "98%"),
        (0.984, "share", "98.4%"),
        (1.0, "share", "100%"),
        (31.456, "ms", "31.5 ms"),
        (4610.4, "", "4,610"),
        (0.00012, "px", "1.20e-04 px"),
        (0.0, "px", "0 px"),
        (math.nan, "px", "none"),
    ],
)
def test_values_print_as_people_write_them(value, unit, text):
    assert unescape(format_value(value, unit)) == text

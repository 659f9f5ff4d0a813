"""The wheel, the pinned versions and the Makefile: what a fresh machine gets."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pinned():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pins}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of what git has and of what is not yet committed, without a network."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(out), "."]
    subprocess.run(command, cwd=copy, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield {name: archive.read(name) for name in archive.namelist()}


def test_wheel_holds_the_package_and_nothing_else(wheel):
    expected = {str(p.relative_to(ROOT / "src")) for p in (ROOT / "src" / "foretell").rglob("*.py")}
    expected |= {"foretell/py.typed", "foretell/evaluation/report.css", "foretell/evaluation/report.js"}
    for model in (ROOT / "src" / "foretell" / "pretrained").iterdir():
        expected |= {
            f"foretell/pretrained/{model.name}/{name}" for name in ("card.md", "config.json", "model.safetensors")
        }
    assert expected <= wheel.keys()
    strangers = [n for n in wheel.keys() - expected if ".dist-info/" not in n]
    assert [n for n in strangers if n.endswith(".py") or not n.startswith("foretell/")] == []


def test_wheel_names_licence_command_and_dependencies(wheel):
    files = {name.split(".dist-info/")[1]: text.decode() for name, text in wheel.items() if ".dist-info/" in name}
    assert "Apache License" in files["licenses/LICENSE"]
    assert "foretell = foretell.cli.main:main" in files["entry_points.txt"]
    core = [Requirement(r) for r in re.findall(r"^Requires-Dist: (.+)$", files["METADATA"], re.MULTILINE)]
    names = {canonicalize_name(r.name) for r in core if r.marker is None}
    assert names == {canonicalize_name(Requirement(r).name) for r in PROJECT["dependencies"]}


def test_everything_that_make_installs_is_pinned():
    """Follows what is installed here from the core, dev and docs requirements on; track stays optional."""
    pins, seen = pinned(), set()
    extras = PROJECT["optional-dependencies"]
    waiting = [Requirement(r) for r in (*PROJECT["dependencies"], *extras["dev"], *extras["docs"])]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in seen:
            continue
        seen.add(name)
        assert name in pins, f"{name} is not in constraints.txt"
        assert requirement.specifier.contains(pins[name], prereleases=True), f"{requirement} against {pins[name]}"
        wanted = [Requirement(r) for r in distribution(name).requires or []]
        waiting += [r for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]
    assert {"torch", "numpy", "pytest", "pdoc"} <= seen


def test_no_pin_names_a_build_or_a_gpu_package():
    pins = pinned()
    assert pins["torch"] == "2.13.0"
    assert [v for v in pins.values() if not re.fullmatch(r"[0-9][0-9a-z.]*", v)] == []
    assert [n for n in pins if n.startswith(("nvidia-", "cuda-", "triton"))] == []


def test_core_imports_nothing_optional():
    """Every import at the top of a module is the standard library, foretell, or a core dependency."""
    allowed = {canonicalize_name(Requirement(r).name) for r in PROJECT["dependencies"]}
    allowed |= set(sys.stdlib_module_names) | {"foretell", "PIL", "sklearn"}
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            tops = {n.split(".")[0] for n in names}
            assert tops <= allowed, f"{path.relative_to(ROOT)} imports {sorted(tops - allowed)} at its top"


def test_make_refuses_an_old_python_and_says_what_to_do(tmp_path):
    old = tmp_path / "python-old"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    ran = subprocess.run(
        ["make", "demo", f"PYTHON={old}", f"VENV={tmp_path}/none"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    assert "needs Python 3.11 or newer" in ran.stdout
    assert "make PYTHON=" in ran.stdout
    assert not (tmp_path / "none").exists()


def test_torch_build_must_be_one_there_is():
    command = [sys.executable, ROOT / "tools" / "install_torch.py", "rocm"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "TORCH must be cpu or cuda, got 'rocm'" in ran.stderr

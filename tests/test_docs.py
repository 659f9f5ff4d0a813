"""The documentation: every public name has a docstring, links lead somewhere, the pages build, the examples run."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "src" / "foretell").rglob("*.py"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def run(*arguments, cwd):
    ran = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    assert ran.returncode == 0, ran.stderr


def public_without_docstring(tree):
    """Names of public functions, classes and methods, at the top of a module, that say nothing."""
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        if ast.get_docstring(node) is None:
            yield node.name
        for part in node.body if isinstance(node, ast.ClassDef) else []:
            if isinstance(part, ast.FunctionDef) and not part.name.startswith("_") and ast.get_docstring(part) is None:
                yield f"{node.name}.{part.name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT / "src")))
def test_public_names_have_docstrings(path):
    tree = ast.parse(path.read_text())
    if tree.body and path.read_text().strip() != '""""""':
        assert ast.get_docstring(tree), "the first line says what lives here"
    assert list(public_without_docstring(tree)) == []


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_links_within_the_project_lead_somewhere(path):
    targets = re.findall(r"\]\(([^)\s]+)\)", path.read_text()) + re.findall(r'src="([^"]+)"', path.read_text())
    local = [t.partition("#")[0] for t in targets if ":" not in t]
    assert [t for t in local if t and not (path.parent / t).exists()] == []


def test_readme_and_contributing_name_only_targets_that_make_has():
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"\bmake ([a-z]+)\b", (ROOT / "README.md").read_text()))
    named |= set(re.findall(r"^    make ([a-z]+)\b", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE))
    assert {"demo", "test", "lint", "docs", "wheel"} <= named
    assert [t for t in named if not re.search(rf"^{t}:", makefile, re.MULTILINE)] == []


def test_site_builds_without_links_to_nowhere(tmp_path):
    run(ROOT / "tools" / "build_docs.py", tmp_path / "site", cwd=ROOT)
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert {"index.html", "design.html", "data.html", "command-line.html"} <= {p.name for p in pages}
    assert (tmp_path / "site" / "reference" / "foretell" / "spec.html").is_file()
    assert "foretell record [-h]" in (tmp_path / "site" / "command-line.html").read_text()
    for page in (tmp_path / "site").glob("*.html"):
        for target in re.findall(r'(?:href|src)="([^":]+)"', page.read_text()):
            file = target.partition("#")[0]
            assert not file or (page.parent / file).exists(), f"{page.name} links to {target}"


def test_example_that_writes_a_store_runs(tmp_path):
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "data.md").read_text(), re.DOTALL)
    run("-c", example, cwd=tmp_path)
    from foretell.episodes.store import EpisodeStore

    store = EpisodeStore(tmp_path / "tank-store")
    assert len(store) == 10
    assert len(store[3]) == 51
    assert 0.05 < 1 - store[3].valid["tank"].mean() < 0.2

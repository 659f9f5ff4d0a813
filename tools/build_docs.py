"""Builds the documentation site: the pages of docs/ and README.md, and the reference from the docstrings (pdoc).

python tools/build_docs.py [FOLDER]     everything in FOLDER opens from the disk, without a server.
"""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import markdown2  # type: ignore[import-untyped]
import pdoc

from foretell.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ["fenced-code-blocks", "tables", "header-ids", "strike", "cuddled-lists"]
STYLE = """
:root { color-scheme: light dark; --ink: #1c2128; --soft: #5b6470; --rule: #dfe3e8; --paper: #fff; --code: #f5f6f8;
  --link: #1f5fbf }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ed; --soft: #9aa4b0; --rule: #313840; --paper: #14171b;
  --code: #1e2329; --link: #7cb0ff } }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.6 system-ui, sans-serif }
nav { border-bottom: 1px solid var(--rule); padding: .8rem 1.5rem; display: flex; gap: 1.4rem; flex-wrap: wrap }
nav b { font-weight: 650 } a { color: var(--link); text-decoration: none } a:hover { text-decoration: underline }
main { max-width: 46rem; margin: 2rem auto 5rem; padding: 0 1.5rem }
h1, h2, h3 { line-height: 1.25; margin: 2em 0 .6em } h1 { margin-top: 0 }
pre { background: var(--code); padding: .9rem 1.1rem; overflow-x: auto; border-radius: 6px; line-height: 1.45 }
code { font: .875em ui-monospace, SFMono-Regular, Menlo, monospace; background: var(--code); padding: .1em .3em;
  border-radius: 3px } pre code { padding: 0 }
table { border-collapse: collapse; display: block; overflow-x: auto } img { max-width: 100% }
th, td { text-align: left; vertical-align: top; padding: .4rem .9rem .4rem 0; border-bottom: 1px solid var(--rule) }
"""
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} · foretell</title><style>{style}</style></head>
<body><nav>{nav}</nav><main>{body}</main></body></html>
"""


def pages() -> dict[Path, str]:
    """The Markdown files of the site and the name of the HTML file of each."""
    sources = {ROOT / "README.md": "index.html"}
    sources |= {p: f"{p.stem}.html" for p in sorted((ROOT / "docs").glob("*.md"))}
    return sources | {ROOT / name: f"{Path(name).stem.lower()}.html" for name in ("CONTRIBUTING.md", "CHANGELOG.md")}


def command_help() -> str:
    """What every command says of itself, as Markdown."""
    settings = os.environ | {"COLUMNS": "88", "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    parts = []
    for name in COMMANDS:
        command = [sys.executable, "-m", "foretell", name, "--help"]
        shown = subprocess.run(command, env=settings, capture_output=True, text=True, check=True).stdout
        parts.append(f"\n## foretell {name}\n\n```text\n{shown.strip()}\n```\n")
    return "".join(parts)


def title_of(text: str, default: str) -> str:
    """The first heading of a page, without the project's name."""
    heading = re.search(r"^# (.+)$", text, re.MULTILINE)
    return heading.group(1).removeprefix("foretell: ").strip().capitalize() if heading else default


def write_pages(out: Path) -> None:
    """Write one HTML file per Markdown file; links between Markdown files become links between pages."""
    sources = pages()
    texts = {path: path.read_text(encoding="utf-8") for path in sources}
    texts[ROOT / "docs" / "command-line.md"] += command_help()
    titles = {path: title_of(texts[path], path.stem) for path in sources}
    titles[ROOT / "README.md"] = "Overview"
    links = [f'<a href="{name}">{html.escape(titles[path])}</a>' for path, name in sources.items()]
    nav = "<b>foretell</b>" + "".join(links) + '<a href="reference/foretell.html">Reference</a>'
    for path, name in sources.items():
        body = str(markdown2.markdown(texts[path], extras=EXTRAS))

        def relink(match: re.Match[str], here: Path = path.parent) -> str:
            target, _, anchor = match.group(2).partition("#")
            if not target or ":" in target:
                return match.group(0)
            file = (here / target).resolve()
            if file in sources:
                return f'{match.group(1)}="{sources[file]}{"#" + anchor if anchor else ""}"'
            if file.is_file() and file.suffix in (".png", ".svg", ".gif", ".jpg"):
                (out / "images").mkdir(exist_ok=True)
                (out / "images" / file.name).write_bytes(file.read_bytes())
                return f'{match.group(1)}="images/{file.name}"'
            if file.is_file() and file.is_relative_to(ROOT):
                (out / file.name).write_bytes(file.read_bytes())
                return f'{match.group(1)}="{file.name}"'
            return match.group(0)

        body = re.sub(r'(href|src)="([^"]*)"', relink, body)
        title = html.escape(titles[path])
        (out / name).write_text(PAGE.format(title=title, style=STYLE, nav=nav, body=body), encoding="utf-8")


def main(out: Path) -> None:
    """Write the site into `out`, made where it is missing."""
    out.mkdir(parents=True, exist_ok=True)
    write_pages(out)
    pdoc.render.configure(docformat="markdown", math=False, footer_text="foretell")
    pdoc.pdoc("foretell", output_directory=out / "reference")
    print(out / "index.html")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "site"))

"""The `foretell` command: finds the command, reads its options, runs it, and turns errors into exit codes.

Exit codes: 0 done; 1 a bug; 2 the user's mistake; 3 training failed; 130 interrupted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib
import inspect
import io
import os
import re
import shutil
import sys
import tempfile
import textwrap
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from foretell import __version__
from foretell.cli.command import Command, Context, Shared
from foretell.cli.console import print_json, rank
from foretell.cli.threads import default_threads, set_threads
from foretell.errors import ForetellError

COMMANDS: dict[str, tuple[str, str]] = {
    "record": ("foretell.cli.record:Record", "Record episodes of a world."),
    "import": ("foretell.cli.import_:Import", "Turn recordings of other formats into an episode store."),
    "train": ("foretell.cli.train:Train", "Train a world model on recorded episodes."),
    "adapt": ("foretell.cli.adapt:Adapt", "Adapt a trained model to a world that has changed."),
    "calibrate": (
        "foretell.cli.calibrate:Calibrate",
        "Calibrate a run: p-values of surprise and novelty, and alarms that are rarely false.",
    ),
    "watch": ("foretell.cli.watch:Watch", "Watch a stream and say where a run is not to be trusted, and why."),
    "overlap": (
        "foretell.cli.overlap:Overlap",
        "Show where logs varied what was done, and where they never did, so that no what-if can be answered.",
    ),
    "what-if": (
        "foretell.cli.what_if:WhatIf",
        "Ask a run what another plan would lead to, from some step of an episode on.",
    ),
    "evaluate": ("foretell.cli.evaluate:Evaluate", "Measure how well a run plans and forecasts."),
    "demo": ("foretell.cli.demo:Demo", "See it work, in minutes: plan, forecast and report."),
    "info": ("foretell.cli.info:Info", "Show what an episode store or a run folder holds."),
}
"""Per command: the class that it is (imported only when called for) and the first line of its docstring."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's own) and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    wants_json = "--json" in arguments
    try:
        return _dispatch(arguments)
    except KeyboardInterrupt as stop:
        if rank():
            return 130
        return _fail(f"interrupted: {stop}" if stop.args else "interrupted", 130, wants_json)
    except BrokenPipeError:
        # Whoever read the output has gone; keep the interpreter from complaining when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except ForetellError as error:
        return _fail(str(error), error.exit_code, wants_json, debug="--debug" in arguments)
    except OSError as error:
        place = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        return _fail(place + (error.strerror or str(error)), 2, wants_json, debug="--debug" in arguments)
    except MemoryError:
        return _fail("out of memory: try fewer or smaller episodes, windows or batches", 2, wants_json)
    except Exception as error:
        return _bug(error, wants_json, debug="--debug" in arguments)


def _dispatch(arguments: list[str]) -> int:
    if not arguments:
        _print_help(sys.stderr)
        return 2
    name, *rest = arguments
    if name in ("-h", "--help", "help"):
        _print_help(sys.stdout)
        return 0
    if name == "--version":
        print(f"foretell {__version__}")
        return 0
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        what = "option" if name.startswith("-") else "command"
        raise ForetellError(f"no {what} {name!r}: the commands are {', '.join(COMMANDS)}{hint}")
    # Before the command's own imports: OpenMP reads its number of threads when torch is first imported.
    set_threads(_asked_threads(rest) or default_threads())
    parsed = _parse(name, rest)
    if parsed is None:
        return 0
    command, shared = parsed
    threads = shared.threads or default_threads()
    set_threads(threads)
    context = Context(seed=shared.seed, threads=threads)
    with contextlib.redirect_stdout(sys.stderr):
        result = command.run(context)
    if rank():
        return 0
    if shared.json:
        print_json(result)
    else:
        # Where nobody watches, tables need not be squeezed into the 80 columns that rich assumes.
        command.show(result, Console(highlight=False, width=None if sys.stdout.isatty() else 120))
    return 0


def _asked_threads(arguments: Sequence[str]) -> int:
    found = re.search(r"--threads[ =](\d+)", " ".join(arguments))
    return int(found.group(1)) if found else 0


def _parse(name: str, arguments: list[str]) -> tuple[Command, Shared] | None:
    """The command and the shared options; None when help was asked for and printed."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    command: Any = getattr(importlib.import_module(module), attribute)
    options = dataclasses.make_dataclass(
        "options",
        [
            ("command", Annotated[command, tyro.conf.arg(name="")]),
            ("shared", Annotated[Shared, tyro.conf.arg(name="shared"), tyro.conf.OmitArgPrefixes]),
        ],
    )
    if {"-h", "--help"} & set(arguments):
        print(_about(command.__doc__) + "\n")
    # Boxes are drawn in what the terminal can show.
    errors, told = io.StringIO(), io.TextIOWrapper(io.BytesIO(), encoding=getattr(sys.stdout, "encoding", None))
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(told):
            parsed: Any = tyro.cli(
                options,
                prog=f"foretell {name}",
                description="",
                args=arguments,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as stop:
        if not stop.code:
            told.seek(0)
            print(_wrapped(told.read()), end="")
            return None
        raise ForetellError(f"{usage_error(errors.getvalue())} (see foretell {name} --help)") from None
    return parsed.command, parsed.shared


def _wrapped(told: str) -> str:
    """Help with its usage, the first line, wrapped like the rest."""
    usage, rest = told.split("\n", 1)
    return textwrap.fill(usage, 80, subsequent_indent=" " * len("usage: "), break_on_hyphens=False) + "\n" + rest


def _about(docstring: str) -> str:
    """A command's docstring, its paragraphs wrapped to the terminal and its indented lines as they are."""
    width = min(shutil.get_terminal_size().columns, 80)
    parts = inspect.cleandoc(docstring).split("\n\n")
    return "\n\n".join(part if part.startswith(" ") else textwrap.fill(part, width) for part in parts)


def usage_error(boxed: str) -> str:
    """tyro's message about wrong options, a box of many lines, as one line."""
    sections: list[list[str]] = [[]]
    for line in boxed.replace("│", " ").splitlines():
        # The content is two columns in, under a title and between rules, in Unicode boxes and in plain ones.
        text = line[2:].rstrip()
        if not line.startswith("  ") or not text:
            continue
        if not text.strip("─- "):
            sections.append([])
        elif len(text) - len(text.lstrip()) < 8:
            sections[-1].append(text.strip())
    kept = [" ".join(s) for s in sections if s and not re.match("For full helptext|Argument helptext", s[0])]
    line = re.sub(r" \.$", ".", "; ".join(kept)) or " ".join(boxed.split())
    for pattern, replacement in (
        (r"Missing from [\w -]+?: ", "missing: "),
        (r"^Missing value for argument '(\S+)'\. Expected (\d+) values\.", r"\1: a value is missing"),
        (r"Error parsing (\S+): invalid literal for int\(\) with base 10: ", r"\1: a whole number expected, got "),
        (r"Error parsing (\S+): could not convert string to float: ", r"\1: a number expected, got "),
        (r"^invalid choice (.+) for argument '(\S+)'\. Expected one of \((.*)\)\.", r"\2: one of \3 expected, got \1"),
        (r"^Error parsing \S+: (?=\w+: )", ""),
        (r"Unrecognized options", "unknown options"),
        (r"Perhaps you meant: ", "did you mean "),
    ):
        line = re.sub(pattern, replacement, line)
    return line


def _print_help(stream: Any) -> None:
    width = max(map(len, COMMANDS)) + 3
    lines = [
        "usage: foretell COMMAND [OPTIONS]",
        "",
        "World models that predict, plan and say when not to be trusted.",
        "",
        "commands:",
        *(f"  {name:<{width}}{summary}" for name, (_, summary) in COMMANDS.items()),
        "",
        "  foretell COMMAND --help   the options of a command",
        "  foretell --version        the version",
        "",
        "Exit codes: 0 done, 1 a bug, 2 wrong input, 3 training failed, 130 interrupted.",
    ]
    print("\n".join(lines), file=stream)


def _fail(message: str, code: int, wants_json: bool, *, debug: bool = False) -> int:
    line = " ".join(message.split())
    if debug:
        traceback.print_exc(file=sys.stderr)
    # Each process that torchrun started may fail in its own way; the first speaks for all where none does.
    place = f"rank {rank()}: " if rank() else ""
    print(f"foretell: {place}{line}", file=sys.stderr)
    if wants_json and not rank():
        print_json({"error": line})
    return code


def _bug(error: Exception, wants_json: bool, *, debug: bool) -> int:
    what = f"bug: {type(error).__name__}: {error}"
    if not debug:
        with tempfile.NamedTemporaryFile("w", prefix="foretell-", suffix=".txt", delete=False) as file:
            traceback.print_exc(file=file)
        what += f"; please report it with the traceback in {Path(file.name)}"
    return _fail(what, 1, wants_json, debug=debug)


if __name__ == "__main__":
    sys.exit(main())

"""Speed and quality, measured by commands: `python -m benchmarks.NAME --json -`."""

from foretell.cli.threads import default_threads, set_threads

# As the command line does, and before torch is imported, which reads it then.
set_threads(default_threads())

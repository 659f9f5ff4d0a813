"""Speed and quality, side by side with baselines: `python -m benchmarks.NAME --json -`."""

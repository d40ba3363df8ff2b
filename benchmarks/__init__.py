"""Measures, side by side in one run, what a change of a feeder's config costs: `python -m benchmarks`."""

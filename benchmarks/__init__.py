"""Side-by-side measurements: `python -m benchmarks.NAME [--short]`; each runs by itself."""

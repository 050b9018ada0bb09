"""Side-by-side benchmarks: `make bench` runs them all and prints one table; `python -m bench NAME …` runs some."""

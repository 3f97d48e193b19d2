"""Benchmarks against real servers. `python -m benchmarks [NAME ...]`; results go to benchmarks/RESULTS.md."""

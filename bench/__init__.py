"""Benchmarks, run by hand: what they measure and what they found is in docs/benchmarks.md."""

"""A simulation of `shared/jobs` and `shared/ingestions` under a fake clock.

Real transactions on a real database, of many actors that take turns: one runs at a time, which one
is drawn from the seed, and any may die between two statements. `python -m tests.simulation --help`.
"""

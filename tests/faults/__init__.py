"""Every bad input there is a case for, as a small project that is spoilt and given to a stage's real entry point.

tests/test_faults.py runs the cases; ``python -m tests.faults.table`` writes what they say into docs/reliability.md.
"""

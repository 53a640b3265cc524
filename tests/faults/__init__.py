"""Every bad input there is a case for, as a small project that is damaged and given to a stage's real entry point.

tests/test_faults.py runs the cases.
"""

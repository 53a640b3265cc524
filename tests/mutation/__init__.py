"""Whether the tests notice: small changes of the label maths and of the artifacts, one at a time.

python -m tests.mutation --mutants 60 --seed 0
"""

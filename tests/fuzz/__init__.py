"""Files nobody would write, given to everything that reads files: the answer is the content or a `CcdError`.

python -m tests.fuzz --cases 10000 --seed 0    # so many of each family; --only SUBJECT:NUMBER repeats one
"""

"""``ccd review``: the most doubtful training images go out to people, and their decisions come back."""

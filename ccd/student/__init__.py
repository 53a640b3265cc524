"""The student: a plain CNN with a class activation head, its training loop and its inference."""

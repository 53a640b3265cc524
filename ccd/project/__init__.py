"""Pipelines for users' own images, outside this repository: what ``ccd init`` makes and what keeps it in step."""

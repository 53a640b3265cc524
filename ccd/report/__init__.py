"""The HTML report: everything that the pipeline decided, made visible. Reads artifacts, images and nothing else."""

"""What leaves the pipeline: models to ship and labels for other tools."""

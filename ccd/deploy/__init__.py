"""A trained student at work: opened from any of its forms, run on image files, its answers written. Needs no CLIP."""

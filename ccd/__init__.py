"""Classifier-guided CLIP Distillation: unlabelled images and class names in, a multi-label classifier out."""

__version__ = "0.1.0"

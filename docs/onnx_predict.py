"""Run an exported student with onnxruntime, Pillow and NumPy alone; nothing of ccd or PyTorch is needed.

    pip install onnxruntime pillow numpy
    python onnx_predict.py student.onnx photo.jpg more.jpg

Prints one line of JSON per image. Copy this file freely into your own program.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def load(path):
    """The session, and the description of the model: classes, thresholds, preprocessing."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session, json.loads(session.get_modelmeta().custom_metadata_map["ccd.model"])


def read(path, size_px):
    """Upright RGB, squashed to a square with antialiased bicubic resampling, (3, S, S) float32 in [0, 1]."""
    with Image.open(path) as file:
        file.draft(None, (size_px, size_px))  # a large JPEG may be decoded at 1/2, 1/4 or 1/8, as in training
        image = ImageOps.exif_transpose(file)
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        image = image.convert("RGB").resize((size_px, size_px), Image.Resampling.BICUBIC)
    return np.asarray(image, np.float32).transpose(2, 0, 1) / 255


def predict(session, model, path):
    """Probabilities by class, and the classes decided present."""
    pixels = read(path, model["preprocessing"]["image_size_px"])[None]
    (logits,) = session.run(["logits"], {"pixels": pixels})
    probs = 1 / (1 + np.exp(-logits[0].astype(np.float64)))
    named = dict(zip(model["classes"], probs.tolist(), strict=True))
    cuts = dict(zip(model["classes"], model["thresholds"]["values"], strict=True))
    return {"path": path, "labels": [name for name in named if named[name] >= cuts[name]], "probs": named}


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    opened = load(sys.argv[1])
    for image_path in sys.argv[2:]:
        print(json.dumps(predict(*opened, image_path), ensure_ascii=False))

"""Run an exported student with onnxruntime, Pillow and NumPy alone; nothing of ccd or PyTorch is needed.

    pip install onnxruntime pillow numpy      # and pillow-heif, to read HEIC
    python onnx_predict.py student.onnx photo.jpg more.jpg

Prints one line of JSON per image. Copy this file freely into your own program.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image

try:
    from pillow_heif import register_heif_opener
except ImportError:
    pass
else:
    register_heif_opener()

Image.MAX_IMAGE_PIXELS = 256 * 1024 * 1024  # as ccd, whose images may be larger than Pillow likes
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load(path):
    """The session, and the description of the model: classes, thresholds, preprocessing."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session, json.loads(session.get_modelmeta().custom_metadata_map["ccd.model"])


def read(path, size_px):
    """Upright RGB, squashed to a square with antialiased bicubic resampling, (3, S, S) float32 in [0, 1]."""
    with Image.open(path) as file:
        if file.format in ("JPEG", "MPO"):
            file.draft(None, (size_px, size_px))  # a large JPEG may be decoded at 1/2, 1/4 or 1/8, as in training
        turned = orientation(file)
        file.load()
        image = to_rgb(file)
    if turned in UPRIGHT:
        image = image.transpose(UPRIGHT[turned])
    image = image.resize((size_px, size_px), Image.Resampling.BICUBIC)
    return np.asarray(image, np.float32).transpose(2, 0, 1) / 255


def orientation(file):
    """EXIF orientation still to be applied; Pillow turns TIFF by itself, and the decoder of HEIC does."""
    if file.format == "TIFF":
        return 1
    try:
        return Image.Image.getexif(file).get(274, 1)
    except Exception:  # broken EXIF around good pixels
        return 1


def to_rgb(image):
    """8-bit RGB: transparency over white, 16-bit values scaled by their full range, wider ones by the image's own."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        wide = values.astype(np.float64)
        low, high = wide.min(), wide.max()
        if image.mode != "F" and low >= 0 and high <= 65535:
            low, high = 0, 65535
        if not np.isfinite([low, high]).all():
            raise ValueError("pixels that are not finite")
        image = Image.fromarray(np.rint((wide - low) * (255 / max(high - low, 1e-12))).astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("RGB")


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

"""Class identifiers as data sets spell them, and what CLIP reads instead.

COCO's names need no list: they come with its annotations and are ordinary words. ``text.class_texts`` in params.yaml
replaces any of these.
"""

from __future__ import annotations

VOC_TEXTS: dict[str, tuple[str, ...]] = {
    "aeroplane": ("aeroplane",),
    "bicycle": ("bicycle",),
    "bird": ("bird",),
    "boat": ("boat",),
    "bottle": ("bottle",),
    "bus": ("bus",),
    "car": ("car",),
    "cat": ("cat",),
    "chair": ("chair",),
    "cow": ("cow",),
    "diningtable": ("dining table",),
    "dog": ("dog",),
    "horse": ("horse",),
    "motorbike": ("motorbike",),
    "person": ("person",),
    "pottedplant": ("potted plant",),
    "sheep": ("sheep",),
    "sofa": ("sofa",),
    "train": ("train",),
    "tvmonitor": ("tv monitor",),
}

NUS_WIDE: tuple[str, ...] = (
    *("airport", "animal", "beach", "bear", "birds", "boats", "book", "bridge", "buildings", "cars"),
    *("castle", "cat", "cityscape", "clouds", "computer", "coral", "cow", "dancing", "dog", "earthquake"),
    *("elk", "fire", "fish", "flags", "flowers", "food", "fox", "frost", "garden", "glacier"),
    *("grass", "harbor", "horses", "house", "lake", "leaf", "map", "military", "moon", "mountain"),
    *("nighttime", "ocean", "person", "plane", "plants", "police", "protest", "railroad", "rainbow", "reflection"),
    *("road", "rocks", "running", "sand", "sign", "sky", "snow", "soccer", "sports", "statue"),
    *("street", "sun", "sunset", "surf", "swimmers", "tattoo", "temple", "tiger", "tower", "town"),
    *("toy", "train", "tree", "valley", "vehicle", "water", "waterfall", "wedding", "whales", "window"),
    "zebra",
)

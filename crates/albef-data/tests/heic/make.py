#!/usr/bin/env python3
"""Makes the HEIC files beside it and what libheif decodes them to: `python make.py` (pip install numpy pillow-heif)."""

import json
import pathlib

import numpy as np
import pillow_heif
from PIL import Image

HERE = pathlib.Path(__file__).parent
pillow_heif.register_heif_opener()


def picture(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    channels = [128 + 100 * np.sin(x / 9), 128 + 100 * np.cos(y / 7), (x + y) * 255 / (width + height)]
    return Image.fromarray(np.stack(channels, -1).clip(0, 255).astype("uint8"))


turned = Image.Exif()
turned[0x112] = 6
see_through = picture(48, 32)
see_through.putalpha(Image.linear_gradient("L").resize((48, 32)))
files = {
    "photo.heic": (picture(53, 41), {"quality": 80}),
    "full_color.heic": (picture(40, 48), {"quality": 90, "chroma": 444}),
    "turned.heic": (picture(60, 36), {"quality": 80, "exif": turned}),
    "gray.heic": (picture(40, 30).convert("L"), {"quality": 80}),
    "transparent.heic": (see_through, {"quality": 80}),
}
expected = {}
for name, (image, options) in files.items():
    image.save(HERE / name, format="HEIF", **options)
    rgba = np.array(Image.open(HERE / name).convert("RGBA"))
    expected[name] = {"size": [rgba.shape[1], rgba.shape[0]], "rgba": rgba.tobytes().hex()}
(HERE / "expected.json").write_text(json.dumps(expected))

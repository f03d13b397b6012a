#!/usr/bin/env python3
"""Makes the AVIF files beside it and says what Pillow reads in them: `python make.py` (pip install numpy pillow==13.0.0
imagecodecs==2026.3.6)."""

import hashlib
import io
import json
import pathlib
import struct

import imagecodecs
import numpy as np
from PIL import Image, ImageOps

HERE = pathlib.Path(__file__).parent


def picture(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    channels = [128 + 120 * np.sin(x / 9), 128 + 120 * np.cos(y / 7), (x + y) * 255 / (width + height)]
    return Image.fromarray(np.stack(channels, -1).clip(0, 255).astype("uint8"))


def see_through(width: int, height: int) -> Image.Image:
    image = picture(width, height)
    image.putalpha(Image.radial_gradient("L").resize((width, height)))
    return image


def saved(image: Image.Image, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, format="AVIF", **{"quality": 70, **options})
    return out.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x112] = orientation
    return saved(picture(24, 13), exif=exif)


def with_matrix(data: bytes, matrix: int) -> bytes:
    """Colors that are said to be stored otherwise than they are."""
    at = data.index(b"colrnclx") + 8 + 4
    return data[:at] + struct.pack(">H", matrix) + data[at + 2 :]


def deep(bits: int, form: str) -> bytes:
    array = np.asarray(picture(37, 23)).astype("uint16") * ((1 << bits) - 1) // 255
    return imagecodecs.avif_encode(array, level=70, bitspersample=bits, pixelformat=form, matrix=6, speed=8)


def box(kind: bytes, *parts: bytes) -> bytes:
    return struct.pack(">I", 8 + sum(map(len, parts))) + kind + b"".join(parts)


def full(kind: bytes, *parts: bytes, version: int = 0) -> bytes:
    return box(kind, struct.pack(">I", version << 24), *parts)


def grid(columns: int, rows: int, width: int, height: int) -> bytes:
    """Tiles of 64 x 64 pixels, which Pillow does not write."""
    whole = picture(64 * columns, 64 * rows)
    places = [(64 * c, 64 * r) for r in range(rows) for c in range(columns)]
    tiles = [saved(whole.crop((x, y, x + 64, y + 64)), subsampling="4:2:0") for x, y in places]
    bodies, properties = [], None
    for tile in tiles:
        at = tile.index(b"mdat")
        bodies.append(tile[at + 4 : at - 4 + struct.unpack(">I", tile[at - 4 : at])[0]])
        start = tile.index(b"av1C") - 4
        properties = tile[start : start + struct.unpack(">I", tile[start : start + 4])[0]]
    count = len(tiles)
    layout = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width, height)
    ids = range(2, 2 + count)

    def meta(begin: int) -> bytes:
        ends = np.cumsum([begin, *map(len, bodies)])
        places = [(1, 1, 0, len(layout))] + [(i, 0, int(ends[i - 2]), len(bodies[i - 2])) for i in ids]
        iloc = b"".join(struct.pack(">HHHHII", i, method, 0, 1, at, size) for i, method, at, size in places)
        kinds = [(1, b"grid")] + [(i, b"av01") for i in ids]
        return full(
            b"meta",
            full(b"hdlr", struct.pack(">I4s12sx", 0, b"pict", b"")),
            full(b"pitm", struct.pack(">H", 1)),
            full(b"iloc", struct.pack(">HH", 0x4400, len(places)), iloc, version=1),
            full(
                b"iinf",
                struct.pack(">H", len(kinds)),
                *(full(b"infe", struct.pack(">HH4sx", i, 0, kind), version=2) for i, kind in kinds),
            ),
            full(b"iref", box(b"dimg", struct.pack(">HH", 1, count), *(struct.pack(">H", i) for i in ids))),
            box(
                b"iprp",
                box(
                    b"ipco",
                    full(b"ispe", struct.pack(">II", width, height)),
                    full(b"ispe", struct.pack(">II", 64, 64)),
                    properties,
                    full(b"pixi", b"\3\10\10\10"),
                    box(b"colr", b"nclx", struct.pack(">HHHB", 1, 13, 6, 0x80)),
                ),
                full(
                    b"ipma",
                    struct.pack(">I", 1 + count),
                    struct.pack(">HBBBB", 1, 3, 1, 4, 5),
                    *(struct.pack(">HBBBBB", i, 4, 2, 0x83, 4, 5) for i in ids),
                ),
            ),
            box(b"idat", layout),
        )

    kind = box(b"ftyp", b"avif", bytes(4), b"avifmif1miaf")
    begin = len(kind) + len(meta(0)) + 8
    return kind + meta(begin) + box(b"mdat", *bodies)


files = {
    "photo.avif": saved(picture(53, 41), subsampling="4:2:0"),
    "half_color.avif": saved(picture(37, 23), subsampling="4:2:2"),
    "full_color.avif": saved(picture(37, 23), subsampling="4:4:4"),
    "gray.avif": saved(picture(37, 23), subsampling="4:0:0"),
    "limited.avif": saved(picture(37, 23), subsampling="4:2:0", range="limited"),
    "limited_gray.avif": saved(picture(37, 23), subsampling="4:0:0", range="limited"),
    "transparent.avif": saved(see_through(37, 23), subsampling="4:2:0", range="limited"),
    "transparent_gray.avif": saved(see_through(37, 23), subsampling="4:0:0", range="limited"),
    "premultiplied.avif": saved(see_through(37, 23), subsampling="4:4:4", alpha_premultiplied=True),
    "column.avif": saved(picture(1, 9), subsampling="4:2:0"),
    "row.avif": saved(picture(9, 1), subsampling="4:2:0"),
    "identity.avif": with_matrix(saved(picture(37, 23), subsampling="4:4:4"), 0),
    "bt709.avif": with_matrix(saved(picture(37, 23), subsampling="4:2:0", range="limited"), 1),
    "bt2020.avif": with_matrix(saved(picture(37, 23), subsampling="4:2:0", range="limited"), 9),
    "bt470m.avif": with_matrix(saved(picture(37, 23), subsampling="4:4:4"), 4),
    "deep.avif": deep(10, "420"),
    "deeper.avif": deep(12, "444"),
    "grid.avif": grid(2, 2, 120, 100),
    "sequence.avif": saved(picture(24, 13), save_all=True, append_images=[picture(24, 13).rotate(180)]),
    **{f"turned_{orientation}.avif": turned(orientation) for orientation in range(2, 9)},
}
expected = {}
for name, data in files.items():
    (HERE / name).write_bytes(data)
    image = Image.open(HERE / name)
    upright = ImageOps.exif_transpose(image)
    said = {"size": image.size, "upright_size": upright.size, "frames": image.n_frames}
    for kind, shown in [("rgba", image), ("upright_rgba", upright)]:
        said[kind] = hashlib.sha256(shown.convert("RGBA").tobytes()).hexdigest()
    expected[name] = said
(HERE / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")

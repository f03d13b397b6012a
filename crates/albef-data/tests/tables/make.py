#!/usr/bin/env python3
"""Makes the Parquet files beside it, in the forms that people have: `python make.py` (pip install pyarrow pillow)."""

import io
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

HERE = pathlib.Path(__file__).parent


def png(color: tuple[int, int, int], size: tuple[int, int] = (5, 4)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, color).save(out, "PNG")
    return out.getvalue()


# As the library `datasets` writes images; compressed with Snappy, in groups of two rows.
image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
rows = [
    {"image": {"bytes": png((255, 0, 0)), "path": "red.png"}, "text": "a red field", "image_id": 7},
    {"image": {"bytes": None, "path": "lost.png"}, "text": "no bytes", "image_id": 8},
    {"image": {"bytes": png((0, 0, 255)), "path": None}, "text": "a blue field", "image_id": 9},
    {"image": {"bytes": b"no image", "path": "odd.png"}, "text": "odd bytes", "image_id": 10},
    {"image": {"bytes": png((0, 255, 0), (3, 2)), "path": "green.png"}, "text": None, "image_id": 11},
]
schema = pa.schema([("image", image), ("text", pa.string()), ("image_id", pa.int64())])
pq.write_table(pa.Table.from_pylist(rows, schema), HERE / "structs.parquet", row_group_size=2)

# Plain bytes and several captions; Zstandard.
rows = [
    {"jpg": png((9, 9, 9)), "caption": ["gray", "dark gray"], "clip": b"\0\1"},
    {"jpg": png((200, 200, 200)), "caption": ["light gray"], "clip": b"\2\3"},
]
schema = pa.schema([("jpg", pa.binary()), ("caption", pa.list_(pa.string())), ("clip", pa.binary())])
pq.write_table(pa.Table.from_pylist(rows, schema), HERE / "bytes.parquet", compression="zstd")

# Paths.
rows = [
    {"image": "a.png", "caption": "first", "image_id": "a", "width": 5},
    {"image": "b.png", "caption": None, "image_id": "b", "width": 5},
    {"image": "c.png", "caption": "third", "image_id": None, "width": None},
]
pq.write_table(pa.Table.from_pylist(rows), HERE / "paths.parquet", compression="none")

# Texts as plain bytes, as some programs write them; a column of images that is not named as one; another compression.
rows = [{"jpg": png((9, 9, 9)), "caption": "caf\u00e9".encode()}, {"jpg": png((8, 8, 8)), "caption": b"it\x92s"}]
schema = pa.schema([("jpg", pa.binary()), ("caption", pa.binary())])
pq.write_table(pa.Table.from_pylist(rows, schema), HERE / "texts.parquet")
rows = [{"pixels": png((9, 9, 9)), "caption": "gray"}]
schema = pa.schema([("pixels", pa.binary()), ("caption", pa.string())])
pq.write_table(pa.Table.from_pylist(rows, schema), HERE / "unnamed.parquet")
rows = [{"image": "a.png", "caption": "first"}]
schema = pa.schema([("image", pa.string()), ("caption", pa.string())])
pq.write_table(pa.Table.from_pylist(rows, schema), HERE / "gzip.parquet", compression="gzip")

# Images that lie beside the table.
rows = [
    {"image": {"bytes": None, "path": "i/there.png"}, "text": "a file"},
    {"image": {"bytes": None, "path": "i/gone.png"}, "text": "no file"},
    {"image": None, "text": "no image"},
    {"image": {"bytes": None, "path": None}, "text": "no path"},
    {"image": {"bytes": png((1, 2, 3)), "path": "i/there.png"}, "text": "bytes"},
]
schema = pa.schema([("image", image), ("text", pa.string())])
pq.write_table(pa.Table.from_pylist(rows, schema), HERE / "beside.parquet")

#!/usr/bin/env python3
"""Data sets as large as the paper's, for measuring how they are opened: memory, and time to the first step.

    scripts/data_scale.py lists  --output DIR [--pairs 14000000] [--lists 4]
    scripts/data_scale.py shards --output DIR [--pairs 14000000] [--per-shard 10000]
    scripts/data_scale.py parquet --output DIR [--pairs 14000000] [--lists 4]
    scripts/data_scale.py folder --output DIR [--pairs 100000]
    scripts/data_scale.py measure --albef ALBEF --source DIR/list-0.json [SOURCE...]

lists    JSON annotation lists in the official form, captions of about ten words, a path of its own for every pair
shards   webdataset shards (`.png` and `.json`); all are hard links to one, so that they need little disk
parquet  the same pairs as `lists`, as Parquet tables of paths and captions; needs pyarrow
folder   that many image files with a `.txt` beside each
measure  opens the sources twice with ALBEF: `data stats`, then one step of `pretrain` with the smallest model; prints
         seconds and peak memory of both

The images are a thousand small PNGs; folders that are symbolic links to one give every pair another path. All but `parquet`
needs nothing beyond Python's own library.
"""
import argparse
import io
import itertools
import json
import os
import pathlib
import random
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib

IMAGES = 1000
WORDS = """a the of in on with and two man woman dog cat red blue green old young street beach table tree car boat sky
water sitting standing walking holding playing front view photo background house people small large near under over
sunset vector illustration white black person city mountain flower field day night room kitchen food plate""".split()


def png(seed, side=16):
    """A small RGB image of noise around one color."""
    draw = random.Random(seed)
    base = [draw.randrange(256) for _ in range(3)]
    rows = b"".join(
        b"\0" + bytes(min(255, max(0, c + draw.randrange(-20, 21))) for _ in range(side) for c in base)
        for _ in range(side)
    )

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def captions(seed):
    """Endless captions of five to fifteen words."""
    draw = random.Random(seed)
    while True:
        yield " ".join(draw.choices(WORDS, k=draw.randrange(5, 16)))


def pairs_of_lists(a):
    """For each list its number and its pairs `(path, caption)`. Makes the images and the links to them."""
    images = a.output / "images"
    images.mkdir(parents=True, exist_ok=True)
    for i in range(IMAGES):
        (images / f"{i:04}.png").write_bytes(png(i))
    for i in range(1000):
        link(a.output / f"p{i:03}", "images")
    text = captions(0)
    root = a.output.resolve()
    for number in range(a.lists):
        # Every list is below a folder of its own, so that no two pairs have one path.
        link(a.output / f"set{number}", ".")

        def pairs(number=number):
            for i in range(a.pairs // a.lists + (number < a.pairs % a.lists)):
                up = "set0/" * (i // (1000 * IMAGES))
                image = f"{up}set{number}/p{i // IMAGES % 1000:03}/{i % IMAGES:04}.png"
                yield f"{root}/{image}", next(text)

        yield number, pairs()


def lists(a):
    for number, pairs in pairs_of_lists(a):
        path = a.output / f"list-{number}.json"
        with open(path, "w", encoding="utf-8") as out:
            for i, (image, caption) in enumerate(pairs):
                out.write(("[" if i == 0 else ",\n"))
                out.write('{"image": "%s", "caption": "%s"}' % (image, caption))
            out.write("]")
        print(path, i + 1, "pairs")


def parquet(a):
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema([("image", pyarrow.string()), ("caption", pyarrow.string())])
    for number, pairs in pairs_of_lists(a):
        path, count = a.output / f"list-{number}.parquet", 0
        with pyarrow.parquet.ParquetWriter(path, schema) as out:
            while some := list(itertools.islice(pairs, 100_000)):
                count += len(some)
                out.write_table(pyarrow.table([list(column) for column in zip(*some)], schema=schema))
        print(path, count, "pairs")


def link(path, target):
    if not path.is_symlink():
        path.symlink_to(target)


def shards(a):
    a.output.mkdir(parents=True, exist_ok=True)
    first = a.output / "00000.tar"
    text = captions(0)
    with tarfile.open(first, "w", format=tarfile.USTAR_FORMAT) as archive:
        for i in range(a.per_shard):
            members = [("png", png(i % IMAGES)), ("json", json.dumps({"caption": next(text)}).encode())]
            for ending, body in members:
                member = tarfile.TarInfo(f"{i:09}.{ending}")
                member.size = len(body)
                archive.addfile(member, io.BytesIO(body))
    count = -(-a.pairs // a.per_shard)
    for i in range(1, count):
        other = a.output / f"{i:05}.tar"
        other.unlink(missing_ok=True)
        os.link(first, other)
    print(a.output, count, "shards")


def folder(a):
    a.output.mkdir(parents=True, exist_ok=True)
    text = captions(0)
    for i in range(a.pairs):
        (a.output / f"{i:07}.png").write_bytes(png(i % IMAGES))
        (a.output / f"{i:07}.txt").write_text(next(text))
    print(a.output, a.pairs, "images")


def measure(a):
    sources = [str(source) for source in a.source]
    config = pathlib.Path(__file__).resolve().parent.parent / "configs/nano.yaml"
    with tempfile.TemporaryDirectory() as scratch:
        run = ["pretrain", str(config), "--output", f"{scratch}/run", "--set", f"train_file=[{','.join(sources)}]"]
        for setting in ["max_steps=1", "batch_size=8", "queue_size=16", "vocab=bert", "schedular.epochs=1"]:
            run += ["--set", setting]
        for name, command in [("data stats", ["data", "stats", *sources, "--images", "0"]), ("pretrain, 1 step", run)]:
            if a.only and not name.startswith(a.only):
                continue
            seconds, peak, code = timed([str(a.albef), *command])
            print(f"{name}: {seconds:.1f} s, peak {peak / 1e9:.2f} GB, exit code {code}", flush=True)


def timed(command):
    """Seconds, and the most memory that the process held."""
    started = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    errors = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, 1):
        sys.stderr.write(errors[-2000:])
    return time.monotonic() - started, usage.ru_maxrss * 1024, code


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for make, pairs in [(lists, 14_000_000), (parquet, 14_000_000), (shards, 14_000_000), (folder, 100_000)]:
        command = commands.add_parser(make.__name__)
        command.set_defaults(run=make)
        command.add_argument("--output", type=pathlib.Path, required=True)
        command.add_argument("--pairs", type=int, default=pairs)
        if make in (lists, parquet):
            command.add_argument("--lists", type=int, default=4)
        if make is shards:
            command.add_argument("--per-shard", type=int, default=10_000)
    command = commands.add_parser("measure")
    command.set_defaults(run=measure)
    command.add_argument("--albef", type=pathlib.Path, required=True)
    command.add_argument("--source", nargs="+", required=True)
    command.add_argument("--only", help="the measurement whose name begins so")
    a = parser.parse_args()
    a.run(a)


if __name__ == "__main__":
    main()

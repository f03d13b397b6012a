#!/usr/bin/env python3
"""Times this program and a PyTorch ALBEF in turn and prints the ratios.

    benches/peer.py PEER.py --albef target/release/albef --python PYTHON [--rounds 3] [--work vit]

PEER.py is a program with the arguments `WORK --preset P --res R --batch B --rounds N` that prints one
JSON line per round with `seconds` and `peak_mib`. Each round starts a fresh process of either side, which
warms up once; a ratio below 1 means that this program is faster or smaller. The last line of each work
gives the median of the per-round ratios.
"""
import argparse
import json
import statistics
import subprocess

WORKS = [  # ours, theirs, preset, resolution, batch
    ("vit", "vit", "base", 256, 8),
    ("rerank", "rerank-i2t", "base", 256, 8),
    ("step", "step", "mini", 128, 32),
    ("step", "step", "base", 256, 8),
]


def timed(command):
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("peer")
    a.add_argument("--albef", default="target/release/albef")
    a.add_argument("--python", default="python3")
    a.add_argument("--rounds", type=int, default=3)
    a.add_argument("--work", choices=sorted({w[0] for w in WORKS}), help="only this; all if not given")
    o = a.parse_args()
    for ours, theirs, preset, res, batch in [w for w in WORKS if o.work in (None, w[0])]:
        rows = []
        sizes = ["--preset", preset, "--res", str(res), "--batch", str(batch), "--rounds", "1"]
        for round_ in range(o.rounds):
            mine = timed([o.albef, "bench", ours, *sizes, "--json"])
            peer = timed([o.python, o.peer, theirs, *sizes])
            rows.append((mine["seconds"] / peer["seconds"], mine["peak_mib"] / peer["peak_mib"]))
            print(json.dumps(dict(
                work=ours, preset=preset, res=res, batch=batch, round=round_,
                seconds=[mine["seconds"], peer["seconds"]], peak_mib=[mine["peak_mib"], peer["peak_mib"]],
            )), flush=True)
        time, memory = (statistics.median(r[i] for r in rows) for i in (0, 1))
        print(f"{ours} {preset}: time {time:.2f}, memory {memory:.2f} of the peer's", flush=True)


if __name__ == "__main__":
    main()

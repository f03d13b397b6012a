#!/usr/bin/env python3
"""The paper's ablation on a small scale: what each part of ALBEF adds, several seeds each.

    scripts/ablations.py --albef target/release/albef --output OUT [--seeds 3] [--steps 600]

Pictures are composed scenes (`albef data scenes`), the model is `nano`. Each row pre-trains from random
weights, is measured by retrieval on scenes whose pairs of things never met in training, then fine-tuned on
questions about scenes. Rows differ in nothing but the settings named in ROWS. Everything that is there
already is kept, so an interrupted run goes on. Writes OUT/ablations.json and OUT/ablations.md; the tests
are those of `albef compare`. Needs nothing beyond Python's own library.
"""
import argparse
import json
import random
import statistics
import subprocess
import sys
from pathlib import Path

ALL = ["losses.ita=true", "hard_negatives=true", "alpha=0"]
ROWS = {
    "MLM + ITM": ["losses.ita=false", "hard_negatives=false", "alpha=0"],
    "+ ITC": ["losses.ita=true", "hard_negatives=false", "alpha=0"],
    "+ hard negatives": ALL,
    "+ MoD in pre-training": [*ALL[:2], "alpha=0.4"],
    "hard negatives + MixGen": [*ALL, "mixgen.mode=batch"],
}
NOISY = {"40 % shuffled": "+ hard negatives", "40 % shuffled, MoD": "+ MoD in pre-training"}
DOWNSTREAM = "+ MoD downstream"
# What is compared with what, in the paper's order.
PAIRS = [
    ("MLM + ITM", "+ ITC"),
    ("+ ITC", "+ hard negatives"),
    ("+ hard negatives", "+ MoD in pre-training"),
    ("+ hard negatives", "hard negatives + MixGen"),
    ("40 % shuffled", "40 % shuffled, MoD"),
    ("+ hard negatives", "40 % shuffled"),
]


def run(*command, log=None):
    """The command's standard output; its standard error goes to the log."""
    command = [str(part) for part in command]
    with open(log, "a") if log else open("/dev/null", "w") as err:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=err, text=True)
    if done.returncode != 0:
        sys.exit(f"failed: {' '.join(command)}; see {log}")
    return done.stdout


def settings(values):
    return [part for value in values for part in ("--set", value)]


def shuffled(source, target, share, seed):
    """The list with the captions of a share of its pictures exchanged among these."""
    pairs = json.loads(source.read_text())
    draw = random.Random(seed)
    chosen = draw.sample(range(len(pairs)), int(share * len(pairs)))
    captions = [pairs[i]["caption"] for i in chosen]
    for place, i in enumerate(chosen):
        pairs[i]["caption"] = captions[(place + 1) % len(captions)]
    target.write_text(json.dumps(pairs))


class Study:
    def __init__(self, options):
        self.o = options
        self.out = Path(options.output)
        self.configs = Path(__file__).resolve().parent.parent / "configs"
        self.scenes = self.out / "scenes"
        self.out.mkdir(parents=True, exist_ok=True)

    def prepare(self):
        if not (self.scenes / "val_vqa.json").exists():
            run(self.o.albef, "data", "scenes", "--output", self.scenes, "--scenes", self.o.scenes, "--size", 64)
        # One caption a picture: then every candidate of a query is scored in full.
        pictures = json.loads((self.scenes / "val_captions.json").read_text())[: self.o.gallery]
        (self.out / "gallery.json").write_text(json.dumps([{**p, "caption": p["caption"][:1]} for p in pictures]))

    def pretrain(self, row, seed):
        folder = self.out / "runs" / f"{slug(row)}-{seed}"
        if not (folder / "model" / "vocab.txt").exists():
            source = self.scenes / "train_captions.json"
            if row in NOISY:
                noisy = self.out / f"shuffled-{seed}.json"
                shuffled(source, noisy, 0.4, seed)
                source = noisy
            values = ROWS[NOISY.get(row, row)]
            run(
                self.o.albef, "pretrain", self.configs / "nano.yaml", "--output", folder, "--resume",
                *settings([
                    f"train_file=[{source}]", f"image_root={self.scenes}", f"seed={seed}", "batch_size=64",
                    "queue_size=256", f"max_steps={self.o.steps}", "schedular.epochs=100000",
                    "schedular.warmup_steps=50", "negative_temp=0.07", f"precision={self.o.precision}",
                    "checkpoint_every=100000", *values,
                ]),
                log=self.out / "log.txt",
            )
        return folder / "model"

    def retrieval(self, row, seed):
        saved = self.out / "outcomes" / f"{slug(row)}-{seed}-retrieval.json"
        result = saved.with_suffix(".result.json")
        if not result.exists():
            saved.parent.mkdir(exist_ok=True)
            model = self.pretrain(row, seed)
            out = run(
                self.o.albef, "evaluate", "retrieval", "--model", model, "--annotations", self.out / "gallery.json",
                "--image-root", self.scenes, "--k", self.o.gallery, "--json", "--save", saved,
                log=self.out / "log.txt",
            )
            result.write_text(out)
        return json.loads(result.read_text()), saved

    def questions(self, row, seed):
        saved = self.out / "outcomes" / f"{slug(row)}-{seed}-vqa.json"
        result = saved.with_suffix(".result.json")
        if not result.exists():
            distill = row == DOWNSTREAM
            model = self.pretrain("+ MoD in pre-training" if distill else row, seed)
            folder = self.out / "runs" / f"{slug(row)}-{seed}-vqa"
            run(
                self.o.albef, "finetune", "vqa", self.configs / "vqa.yaml", "--output", folder, "--resume",
                *settings([
                    f"checkpoint={model}", f"train_file=[{self.scenes / 'train_vqa.json'}]",
                    f"vqa_root={self.scenes}", f"vg_root={self.scenes}", "image_res=64", "batch_size_train=64",
                    f"max_steps={self.o.tune_steps}", "schedular.sched=per_step", "schedular.epochs=1000",
                    "schedular.warmup_steps=20", "schedular.warmup_lr=1e-5", "optimizer.lr=4e-4", "dropout=0",
                    "momentum_dropout=0", f"distill={str(distill).lower()}", f"seed={seed}",
                    f"precision={self.o.precision}", "checkpoint_every=100000", "rand_augment=[0, 0]",
                    "flip=false", "crop_scale=[1.0, 1.0]",
                ]),
                log=self.out / "log.txt",
            )
            out = run(
                self.o.albef, "evaluate", "vqa", "--model", folder / "model", "--annotations",
                self.scenes / "val_vqa.json", "--image-root", self.scenes, "--answer-list",
                self.scenes / "answers.json", "--k", 16, "--json", "--save", saved, log=self.out / "log.txt",
            )
            result.write_text(out)
        return json.loads(result.read_text()), saved

    def compare(self, first, second):
        out = run(
            self.o.albef, "compare", "--a", *first, "--b", *second, "--json", log=self.out / "log.txt",
        )
        return json.loads(out)["metrics"]


def slug(row):
    return "".join(c if c.isalnum() else "-" for c in row.lower()).strip("-")


def spread(values):
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.1f} ± {deviation:.1f}"


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--albef", required=True)
    a.add_argument("--output", required=True)
    a.add_argument("--seeds", type=int, default=3)
    a.add_argument("--steps", type=int, default=600, help="steps of pre-training, 64 pairs each")
    a.add_argument("--tune-steps", type=int, default=300, help="steps of fine-tuning, 64 questions each")
    a.add_argument("--scenes", type=int, default=2400)
    a.add_argument("--gallery", type=int, default=160)
    a.add_argument("--precision", default="bf16", choices=["f32", "bf16"])
    study = Study(a.parse_args())
    study.prepare()
    seeds = range(1, study.o.seeds + 1)
    found = {}
    # Seed by seed, so that an early end leaves whole rows.
    for seed in seeds:
        for row in [*ROWS, *NOISY]:
            entry = found.setdefault(row, {"retrieval": [], "vqa": [], "files": {"retrieval": [], "vqa": []}})
            for task in ["retrieval", "vqa"]:
                result, saved = getattr(study, "retrieval" if task == "retrieval" else "questions")(row, seed)
                entry[task].append(result)
                entry["files"][task].append(str(saved))
            print(f"seed {seed}: {row}", file=sys.stderr, flush=True)
        entry = found.setdefault(DOWNSTREAM, {"retrieval": [], "vqa": [], "files": {"retrieval": [], "vqa": []}})
        result, saved = study.questions(DOWNSTREAM, seed)
        entry["vqa"].append(result)
        entry["files"]["vqa"].append(str(saved))
    lines = [
        f"Mean ± deviation over {study.o.seeds} seeds; {study.o.steps} steps of 64 pairs, then "
        f"{study.o.tune_steps} steps of 64 questions; gallery of {study.o.gallery} scenes.",
        "",
        "| pre-training | TR@1 cosine | IR@1 cosine | TR@1 matching | IR@1 matching | questions |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row, entry in found.items():
        cells = [row]
        for stage in [lambda r: r["itc"], lambda r: r]:
            for key in ["txt_r1", "img_r1"]:
                values = [stage(r)[key] for r in entry["retrieval"]]
                cells.append(spread(values) if values else "as above")
        cells.append(spread([r["accuracy"] for r in entry["vqa"]]))
        lines.append("| " + " | ".join(cells) + " |")
    majority = statistics.mean(r["majority"] for r in found["+ ITC"]["vqa"])
    lines += ["", f"Chance R@1 {100 / study.o.gallery:.1f}; always the most frequent answer {majority:.1f}.", ""]
    lines += ["| from | to | metric | difference | 95 % interval | p |", "| --- | --- | --- | --- | --- | --- |"]
    tests = []
    for first, second in [*PAIRS, ("+ MoD in pre-training", DOWNSTREAM)]:
        for task in ["retrieval", "vqa"]:
            files = [found[row]["files"][task] for row in (first, second)]
            if not all(files):
                continue
            for metric, d in study.compare(*files).items():
                tests.append({"from": first, "to": second, "task": task, "metric": metric, **d})
                if task == "vqa" or metric.endswith("r1"):
                    low, high = d["interval"]
                    lines.append(
                        f"| {first} | {second} | {metric} | {d['difference']:+.1f} | "
                        f"[{low:+.1f}, {high:+.1f}] | {d['p']:.4f} |"
                    )
    (study.out / "ablations.json").write_text(json.dumps({"rows": found, "tests": tests}, indent=1))
    (study.out / "ablations.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()

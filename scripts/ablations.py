#!/usr/bin/env python3
"""The paper's ablation on a small scale: what each part of ALBEF adds, several seeds each.

    scripts/ablations.py --albef target/release/albef --output OUT [--seeds 3] [--steps 200] [--jobs 2]

Pictures are composed scenes (`albef data scenes`), the model is `nano`. The paper starts from encoders that
know pictures and words (DeiT, BERT); here all rows of a seed start from one model that has learnt single things
with their names (all losses, random negatives). Each row then pre-trains on scenes and is measured by
retrieval on scenes whose pairs of things never met in training; momentum distillation is also tried in fine-tuning
for entailment. Rows differ in nothing but the settings named in ROWS. The models of the first seed are also asked
for the mutual information of their views (`albef analyse mi`). Everything that is there already is kept, so an
interrupted run goes on. Writes OUT/ablations.json and OUT/ablations.md; the tests are those of `albef compare`. Needs
nothing beyond Python's own library.
"""
import argparse
import json
import random
import statistics
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from study import CONFIGS, kept, run, say, settings

ALL = ["losses.ita=true", "hard_negatives=true", "alpha=0"]
ROWS = {
    "MLM + ITM": ["losses.ita=false", "hard_negatives=false", "alpha=0"],
    "+ ITC": ["losses.ita=true", "hard_negatives=false", "alpha=0"],
    "+ hard negatives": ALL,
    "+ MoD in pre-training": [*ALL[:2], "alpha=0.4"],
    "hard negatives + MixGen": [*ALL, "mixgen.mode=fixed"],
}
NOISY = {"40 % shuffled": "+ hard negatives", "40 % shuffled, MoD": "+ MoD in pre-training"}
DISTILLED = "+ MoD in pre-training"
DOWNSTREAM = "+ MoD downstream"
EVERY = [*ROWS, DOWNSTREAM, *NOISY]
# What is compared with what, in the paper's order.
PAIRS = [
    ("MLM + ITM", "+ ITC"),
    ("+ ITC", "+ hard negatives"),
    ("+ hard negatives", DISTILLED),
    (DISTILLED, DOWNSTREAM),
    ("+ hard negatives", "hard negatives + MixGen"),
    ("+ hard negatives", "40 % shuffled"),
    ("40 % shuffled", "40 % shuffled, MoD"),
]


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
        self.scenes = self.out / "scenes"
        self.gallery = self.out / "gallery.json"
        self.starting = threading.Lock()
        (self.out / "outcomes").mkdir(parents=True, exist_ok=True)

    def prepare(self):
        if not (self.scenes / "answers.json").exists():
            run(
                self.o.albef, "data", "scenes", "--output", self.scenes, "--scenes", self.o.scenes,
                "--size", self.o.size, "--concepts", self.o.concepts, log=self.out / "log" / "scenes.txt",
            )
        for seed in range(1, self.o.seeds + 1):
            if not self.noisy(seed).exists():
                shuffled(self.scenes / "train_captions.json", self.noisy(seed), 0.4, seed)
        # One caption a picture: then every candidate of a query is scored in full.
        pictures = json.loads((self.scenes / "val_captions.json").read_text())[: self.o.gallery]
        self.gallery.write_text(json.dumps([{**p, "caption": p["caption"][:1]} for p in pictures]))

    def noisy(self, seed):
        return self.out / f"shuffled-{seed}.json"

    def threads(self):
        return ["--threads", 1] if self.o.jobs > 1 else []

    def log(self, row, seed):
        return self.out / "log" / f"{slug(row)}-{seed}.txt"

    def saved(self, row, seed, task):
        return self.out / "outcomes" / f"{slug(row)}-{seed}-{task}.json"

    def training(self, seed, steps):
        """Settings of every pre-training run."""
        return settings({
            "image_root": self.scenes, "seed": seed, "batch_size": 64, "image_res": self.o.size,
            "max_steps": steps, "schedular.epochs": 100000, "schedular.warmup_steps": 30,
            "precision": self.o.precision, "checkpoint_every": 100000, "flip": False,
            "crop_scale": "[0.9, 1.0]", "vocab": self.scenes / "vocab.txt",
        })

    def start(self, seed):
        """The model that all rows of a seed start from."""
        folder = self.out / "runs" / f"start-{seed}"
        with self.starting:
            if (folder / "model" / "vocab.txt").exists():
                return folder / "model"
            run(
                self.o.albef, "pretrain", CONFIGS / "nano.yaml", "--output", folder, "--resume", *self.threads(),
                *self.training(seed, self.o.start_steps),
                *settings({
                    "train_file": f"[{self.scenes / 'train_things.json'}]", "hard_negatives": False,
                    "optimizer.lr": 1e-3,
                }),
                log=self.log("start", seed),
            )
        return folder / "model"

    def pretrain(self, row, seed):
        folder = self.out / "runs" / f"{slug(row)}-{seed}"
        if (folder / "model" / "vocab.txt").exists():
            return folder / "model"
        source = self.noisy(seed) if row in NOISY else self.scenes / "train_captions.json"
        run(
            self.o.albef, "pretrain", CONFIGS / "nano.yaml", "--output", folder, "--resume", *self.threads(),
            *self.training(seed, self.o.steps),
            *settings({
                "train_file": f"[{source}]", "init_albef": self.start(seed), "queue_size": 256,
                "optimizer.lr": 6e-4, "negative_temp": 0.07,
            }),
            *settings(ROWS[NOISY.get(row, row)]),
            log=self.log(row, seed),
        )
        return folder / "model"

    def retrieval(self, row, seed):
        saved = self.saved(row, seed, "retrieval")
        return kept(saved.with_suffix(".result.json"), lambda: run(
            self.o.albef, "evaluate", "retrieval", "--model", self.pretrain(row, seed), "--annotations",
            self.gallery, "--image-root", self.scenes, "--k", self.o.gallery, "--json", "--save", saved,
            *self.threads(), log=self.log(row, seed),
        ))

    def entailment(self, row, seed):
        saved = self.saved(row, seed, "ve")

        def make():
            model = self.pretrain(DISTILLED if row == DOWNSTREAM else row, seed)
            folder = self.out / "runs" / f"{slug(row)}-{seed}-ve"
            run(
                self.o.albef, "finetune", "ve", CONFIGS / "scenes_task.yaml", "--output", folder, "--resume",
                *self.threads(),
                *settings({
                    "checkpoint": model, "train_file": f"[{self.scenes / 'train_ve.json'}]", "image_root": self.scenes,
                    "image_res": self.o.size, "max_steps": self.o.tune_steps, "distill": row == DOWNSTREAM,
                    "seed": seed, "precision": self.o.precision,
                }),
                log=self.log(row, seed),
            )
            return run(
                self.o.albef, "evaluate", "ve", "--model", folder / "model", "--annotations",
                self.scenes / "val_ve.json", "--image-root", self.scenes, "--json", "--save", saved, *self.threads(),
                log=self.log(row, seed),
            )

        return kept(saved.with_suffix(".result.json"), make)

    def information(self, row, seed):
        """Bounds on the mutual information of the views of a row's model."""
        folder = self.out / "runs" / f"{slug(row)}-{seed}"
        return kept(self.out / f"{slug(row)}-{seed}-mi.json", lambda: run(
            self.o.albef, "analyse", "mi", "--model", folder, "--annotations", self.scenes / "val_captions.json",
            "--image-root", self.scenes, "--batch", 48, "--json", *self.threads(), log=self.log(row, seed),
        ))

    def measure(self, row, seed):
        """The results of a row by task."""
        found = {}
        if row != DOWNSTREAM:
            found["retrieval"] = self.retrieval(row, seed)
        if row in (DISTILLED, DOWNSTREAM):
            found["ve"] = self.entailment(row, seed)
        say(f"seed {seed}: {row}")
        return found

    def compare(self, first, second):
        out = run(self.o.albef, "compare", "--a", *first, "--b", *second, "--json", log=self.out / "log" / "compare.txt")
        return json.loads(out)["metrics"]


def slug(row):
    return "".join(c if c.isalnum() else "-" for c in row.lower()).strip("-")


def spread(values):
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.1f} ± {deviation:.1f}"


def table(study, found, seeds):
    o = study.o
    lines = [
        f"Mean ± deviation over {len(seeds)} seeds; `nano` at {o.size} px on {o.scenes} scenes of {o.concepts} things, "
        f"{o.start_steps} steps on single things, {o.steps} on scenes (64 pairs each), then {o.tune_steps} of entailment; gallery of {o.gallery} scenes.",
        "",
        "| pre-training | TR@1 cosine | IR@1 cosine | TR@1 matching | IR@1 matching | entailment |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row, by_seed in found.items():
        cells = [row]
        for stage in [lambda r: r["itc"], lambda r: r]:
            for key in ["txt_r1", "img_r1"]:
                values = [stage(r["retrieval"])[key] for r in by_seed if "retrieval" in r]
                cells.append(spread(values) if values else "as above")
        values = [r["ve"]["accuracy"] for r in by_seed if "ve" in r]
        cells.append(spread(values) if values else "—")
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, "", f"Chance R@1 {100 / o.gallery:.1f}; of entailment 33.3.", ""]


def tests(study, found, seeds):
    lines = ["| from | to | metric | difference | 95 % interval | p |", "| --- | --- | --- | --- | --- | --- |"]
    record = []
    for first, second in PAIRS:
        for task in ["retrieval", "ve"]:
            if not all(row in found and task in found[row][0] for row in (first, second)):
                continue
            files = [[study.saved(row, seed, task) for seed in seeds] for row in (first, second)]
            for metric, d in study.compare(*files).items():
                record.append({"from": first, "to": second, "task": task, "metric": metric, **d})
                if task == "ve" or metric.endswith("r1"):
                    low, high = d["interval"]
                    lines.append(
                        f"| {first} | {second} | {metric} | {d['difference']:+.1f} | "
                        f"[{low:+.1f}, {high:+.1f}] | {d['p']:.4f} |"
                    )
    return record, lines


def information(views):
    """The mutual-information bounds of models side by side, in nats."""
    if not views:
        return []
    lines = ["| first seed, in nats | " + " | ".join(views) + " |", "| --- |" + " --- |" * len(views)]

    def line(name, cell):
        lines.append(f"| {name} | " + " | ".join(cell(v) for v in views.values()) + " |")

    line("bound by contrast (its ceiling)", lambda v: f"{v['itc']['mean']['bound']:.2f} ({v['itc']['ceiling']:.2f})")
    for name, key in [("own image", "own_image"), ("another image", "other_image")]:
        line(f"bound by masked words, {name}", lambda v, key=key: f"{v['mlm'][key]['bound']:.2f}")
    line("what the image tells about a masked word", lambda v: "{:.3f} [{:.3f}, {:.3f}]".format(
        v["mlm"]["difference"], *v["mlm"]["difference_interval"]))
    line("effective number of views of the teacher, image to text",
         lambda v: f"{v['itc']['i2t']['teacher']['effective_views']:.0f}")
    line("effective number of words of the teacher", lambda v: f"{v['mlm']['teacher']['effective_views']:.0f}")
    return [*lines, ""]


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--albef", required=True)
    a.add_argument("--output", required=True)
    a.add_argument("--seeds", type=int, default=3)
    a.add_argument("--start-steps", type=int, default=160, help="steps on single things")
    a.add_argument("--steps", type=int, default=200, help="steps of pre-training, 64 pairs each")
    a.add_argument("--tune-steps", type=int, default=300, help="steps of fine-tuning, 64 sentences each")
    a.add_argument("--scenes", type=int, default=1200)
    a.add_argument("--concepts", type=int, default=24, help="things that the scenes show")
    a.add_argument("--size", type=int, default=32, help="side of the pictures")
    a.add_argument("--gallery", type=int, default=120)
    a.add_argument("--rows", nargs="+", choices=EVERY, default=EVERY, metavar="ROW", help="only these rows of the table")
    a.add_argument("--jobs", type=int, default=1, help="runs beside each other, one thread each if several")
    a.add_argument("--precision", default="f32", choices=["f32", "bf16"])
    study = Study(a.parse_args())
    study.prepare()
    seeds = range(1, study.o.seeds + 1)
    rows = [row for row in EVERY if row in study.o.rows]
    with ThreadPoolExecutor(study.o.jobs) as pool:
        # Seed by seed, so that an early end leaves whole rows. A run that needs another one's model
        # comes after it.
        todo = {}
        for seed in seeds:
            for row in rows:
                before = todo.get((DISTILLED, seed)) if row == DOWNSTREAM else None

                def work(row=row, seed=seed, before=before):
                    if before is not None:
                        before.result()
                    return study.measure(row, seed)

                todo[row, seed] = pool.submit(work)
        try:
            found = {row: [todo[row, seed].result() for seed in seeds] for row in rows}
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    record, lines = tests(study, found, seeds)
    lines = table(study, found, seeds) + lines
    views = {row: study.information(row, seeds[0]) for row in ["+ hard negatives", DISTILLED] if row in rows}
    lines += ["", *information(views)]
    (study.out / "ablations.json").write_text(
        json.dumps({"rows": found, "tests": record, "mutual_information": views}, indent=1))
    (study.out / "ablations.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()

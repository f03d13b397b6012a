#!/usr/bin/env python3
"""The downstream tasks on material that was held out: trains, measures, writes a table for each.

    scripts/evidence.py scenes    --albef ALBEF --output OUT
    scripts/evidence.py grounding --albef ALBEF --output OUT      (after scenes)
    scripts/evidence.py easy-vqa  --albef ALBEF --output OUT --data FOLDER
    scripts/evidence.py nlvr1     --albef ALBEF --output OUT --data FOLDER
    scripts/evidence.py photos    --albef ALBEF --output OUT --data FOLDER

scenes     all tasks on composed pictures (`albef data scenes`), measured on an art style that is never trained on
grounding  boxes chosen by attention maps of a model that has never seen a box, and OUT/grounding/page.html
easy-vqa   FOLDER: `easy_vqa/data` of the package easy-vqa (PyPI); its own test split
nlvr1      FOLDER: NLVR version 1 as `nlvr_{train,val,test}.json` with pictures; fits on train, chooses the epoch
           on val, looks at test once. Needs Pillow: the order of a picture's three boxes is permuted for training
photos     FOLDER: flickr8k as `flickr8k_{train,val,test}.json` with pictures, for research only

Everything that is there already is kept, so an interrupted run goes on. Each command writes OUT/NAME.md.
"""
import argparse
import html
import itertools
import json
import subprocess
import tarfile
import time
from pathlib import Path

from study import CONFIGS, kept, run, say, settings

# What training for minutes asks for, where it differs from the paper's values.
SHORT = {
    "batch_size": 64, "schedular.sched": "per_step", "schedular.epochs": 100000,
    "schedular.warmup_steps": 30, "schedular.warmup_lr": 1e-5, "dropout": 0, "momentum_dropout": 0, "momentum": 0.98,
    "rand_augment": "[0, 0]", "flip": False, "crop_scale": "[0.9, 1.0]", "checkpoint_every": 300,
}
# Configurations that already say all that.
OWN = ["scenes.yaml", "scenes_task.yaml"]


class Study:
    def __init__(self, options):
        self.o = options
        self.out = Path(options.output) / options.what
        self.out.mkdir(parents=True, exist_ok=True)
        self.data = Path(options.data) if options.data else None
        self.log = self.out / "log.txt"
        self.began = time.time()

    def albef(self, *command):
        more = ["--threads", self.o.threads] if self.o.threads else []
        return run(self.o.albef, *command, *more, log=self.log)

    def train(self, name, command, config, values):
        """The model folder of a run, which is trained if it is not there; `best` if epochs are chosen among."""
        folder = self.out / "runs" / name
        if not (folder / "done").exists():
            say(f"training {name}")
            began = time.time()
            short = {} if config in OWN else SHORT
            if short and command[0] == "finetune":
                short = {**short, "batch_size_train": short["batch_size"]}
            self.albef(*command, CONFIGS / config, "--output", folder, "--resume",
                       *settings({**short, **values, "seed": self.o.seed}))
            (folder / "done").write_text(f"{time.time() - began:.0f}\n")
        best = folder / "best"
        return best if best.exists() else folder / "model"

    def seconds(self):
        """Time of all training runs."""
        return sum(int(done.read_text()) for done in (self.out / "runs").glob("*/done"))

    def evaluate(self, name, *command):
        say(f"measuring {name}")
        outcomes = self.out / f"{name}.outcomes.json"
        return kept(self.out / f"{name}.result.json",
                    lambda: self.albef("evaluate", *command, "--json", "--save", outcomes))

    def vocabulary(self, texts, picture, root, size):
        """A file of the word pieces that the texts need; other words are spelt with them."""
        path = self.out / "vocab.txt"
        if not path.exists():
            words = self.out / "words.json"
            words.write_text(json.dumps([{"image": picture, "caption": sorted(texts), "image_id": 0}] * 2))
            self.albef("pretrain", CONFIGS / "nano.yaml", "--output", self.out / "words", "--resume", *settings({
                "train_file": f"[{words}]", "image_root": root, "batch_size": 2, "max_steps": 1, "queue_size": 2,
                "image_res": size,
            }))
            path.write_text((self.out / "words" / "model" / "vocab.txt").read_text())
        return path

    def write(self, lines):
        text = "\n".join(lines) + "\n"
        (self.out.parent / f"{self.o.what}.md").write_text(text)
        print(text)


def listed(path):
    return json.loads(path.read_text())


def accuracy(name, r):
    low, high = r["interval"]
    ways = [way["accuracy"] for way in r.get("text_baseline", {}).values() if isinstance(way, dict)]
    alone = f"{max(ways):.1f}" if ways else "—"
    return f"| {name} | {r['samples']} | **{r['accuracy']:.1f}** [{low:.1f}, {high:.1f}] | {r['majority']:.1f} | {alone} |"


ACCURACY = ["| task | samples | accuracy | most frequent | text alone |", "| --- | --- | --- | --- | --- |"]
SPLITS = {"val": "pairs that never met", "test": "unseen style", "concept": "unseen things"}


def recall(name, r):
    def cell(v, side):
        low, high = v["interval"][f"{side}_r1"] if "interval" in v else (None, None)
        bound = f" [{low:.1f}, {high:.1f}]" if low is not None else ""
        return f"{v[f'{side}_r1']:.1f}{bound} / {v[f'{side}_r10']:.1f}"

    n = r["gallery"]["images"]
    itc = " | ".join(cell(r["itc"], side) for side in ("txt", "img"))
    itm = " | ".join(cell(r, side) for side in ("txt", "img"))
    return f"| {name} | {n} | {itc} | {itm} | {100 / n:.2f} |"


RECALL = [
    "| set | pictures | cosine, image→text | cosine, text→image | re-ranked, image→text | re-ranked, text→image | chance R@1 |",
    "| --- | --- | --- | --- | --- | --- | --- |",
]


def scenes_start(s):
    """Pictures for every task, and a model pre-trained on their captions."""
    folder = s.out / "pictures"
    if not (folder / "answers.json").exists():
        s.albef("data", "scenes", "--output", folder, "--scenes", 4000, "--size", 32, "--concepts", 24)
    lists = [folder / f"train_{name}.json" for name in ["things", "captions"]]
    start = s.train("pretrained", ["pretrain"], "scenes.yaml", {
        "image_root": folder, "train_file": f"[{lists[0]}, {lists[1]}]", "vocab": folder / "vocab.txt",
    })
    return folder, start


def scenes_task(s, name, command, folder, start, values):
    """A model fine-tuned on the scenes."""
    return s.train(name, ["finetune", command], "scenes_task.yaml", {
        "checkpoint": start, "image_root": folder, "vqa_root": folder, "vg_root": folder, **values,
    })


def scenes(s):
    folder, start = scenes_start(s)
    lines = [f"`nano`, 32 px, seed {s.o.seed}, 4,000 scenes of 24 things a task.", "", *ACCURACY]
    for task in ["vqa", "nlvr", "ve"]:
        train = folder / f"train_{task}.json"
        values, begin = {"train_file": f"[{train}]"}, start
        if task == "nlvr":
            values["max_steps"] = 500
            begin = scenes_task(s, "nlvr-ta", "nlvr-ta", folder, start, {
                "train_file": f"[{folder / 'train_captions.json'}]", "max_steps": 100,
            })
        model = scenes_task(s, task, task, folder, begin, values)
        for split, name in SPLITS.items():
            answers = folder / ("concept_answers.json" if split == "concept" else "answers.json")
            more = ["--answer-list", answers, "--k", 16] if task == "vqa" else []
            found = s.evaluate(f"{task}-{split}", task, "--model", model, "--annotations",
                               folder / f"{split}_{task}.json", "--image-root", folder, "--text-baseline", train, *more)
            lines.append(accuracy(f"{task}, {name}", found))
    lines += ["", "Retrieval, R@1 / R@10:", "", *RECALL]
    tuned = scenes_task(s, "retrieval", "retrieval", folder, start, {
        "train_file": f"[{folder / 'train_captions.json'}]", "queue_size": 256, "hard_negatives": False,
        "max_steps": 300,
    })
    for name, model in [("pre-trained", start), ("fine-tuned", tuned)]:
        for split, what in SPLITS.items():
            found = s.evaluate(f"retrieval-{name}-{split}", "retrieval", "--model", model, "--annotations",
                               folder / f"{split}_captions.json", "--image-root", folder, "--k", 64)
            lines.append(recall(f"{name}, {what}", found))
    s.write([*lines, "", f"Training took {s.seconds()} s in all."])


def grounding(s):
    base = argparse.Namespace(**{**vars(s.o), "what": "scenes"})
    folder, start = scenes_start(Study(base))
    tuned = scenes_task(s, "grounding", "grounding", folder, start, {
        "train_file": f"[{folder / 'train_grounding.json'}]", "queue_size": 256, "hard_negatives": False,
        "crop_scale": "[1.0, 1.0]",
    })
    lines = [
        f"Four boxes to choose from, never a box in training; seed {s.o.seed}. Layers are chosen on `val`, `test` is of "
        "an unseen style.", "",
        "| model | map | layer | pairs that never met | unseen style | random box | centre box |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    places = {"itm": range(2, 4), "itc": range(0, 3)}
    best = None
    for name, model in [("pre-trained on captions", start), ("fine-tuned on expressions", tuned)]:
        for mode, layers in places.items():
            def measured(split, layer):
                return s.evaluate(
                    f"{name.split()[0]}-{mode}-{layer}-{split}", "grounding", "--model", model, "--annotations",
                    folder / f"{split}_grounding.json", "--image-root", folder, "--mode", mode, "--layer", layer)

            layer = max(layers, key=lambda layer: measured("val", layer)["accuracy"])
            val, test = measured("val", layer), measured("test", layer)

            def cell(r):
                return f"{r['accuracy']:.1f} [{r['interval'][0]:.1f}, {r['interval'][1]:.1f}]"

            lines.append(f"| {name} | {mode} | {layer} | {cell(val)} | **{cell(test)}** | {test['random_box']:.1f} | "
                         f"{test['centre_box']:.1f} |")
            best = max([best, (val["accuracy"], mode, layer, model)], key=lambda b: b[0] if b else -1)
    page(s, folder, best)
    s.write([*lines, "", f"Training took {s.seconds()} s on top of the pre-training."])


def page(s, folder, best):
    """Overlays of the first expressions of the unseen style, right and wrong as they come."""
    _, mode, layer, model = best
    cells = []
    for i, entry in enumerate(listed(folder / "test_grounding.json")[:48:3]):
        boxes, overlay = s.out / f"boxes-{i}.json", s.out / f"overlay-{i}.png"
        boxes.write_text(json.dumps(entry["boxes"]))
        done = subprocess.run(
            [str(p) for p in [s.o.albef, "ground", folder / entry["image"], entry["text"], "--model", model, "--mode", mode,
                              "--layer", layer, "--boxes", boxes, "--output", overlay, "--json"]],
            capture_output=True, text=True)
        if done.returncode == 2:
            raise RuntimeError(done.stderr)
        right = json.loads(done.stdout)["box"] == [float(v) for v in entry["box"]]
        cells.append(f"<figure class={'right' if right else 'wrong'}><img src='{folder.resolve() / entry['image']}'>"
                     f"<img src='{overlay.resolve()}'><figcaption>{html.escape(entry['text'])}: "
                     f"{'right' if right else 'wrong'}</figcaption></figure>")
    (s.out / "page.html").write_text(
        "<!doctype html><meta charset=utf-8><title>Grounding without boxes</title><style>"
        "body{font:14px sans-serif;display:flex;flex-wrap:wrap;gap:12px}img{width:128px;image-rendering:pixelated}"
        "figure{margin:0;padding:6px;border:2px solid}.right{border-color:#2a7}.wrong{border-color:#c33}</style>"
        + "".join(cells))


def easy_vqa(s):
    names = [line.strip() for line in (s.data / "answers.txt").read_text().splitlines() if line.strip()]
    (s.out / "answers.json").write_text(json.dumps(names))
    shapes = {"circle", "rectangle", "triangle"}
    questions, said, told = {"train": [], "val": [], "test": []}, {}, {}
    for folder in ["train", "test"]:
        for i, (question, answer, image) in enumerate(listed(s.data / folder / "questions.json")):
            # The package has no split to choose by: a tenth of the training pictures is one.
            split = "val" if folder == "train" and image % 10 == 0 else folder
            questions[split].append({"dataset": "vqa", "image": f"{folder}/images/{image}.png", "question": question,
                                     "question_id": i, "answer": [answer]})
            # Captions to pre-train on: what the answers to open questions say, then questions with answers.
            if split == "train":
                told.setdefault(image, []).append(f"{question.rstrip('?')} {answer}")
                if question.startswith("what"):
                    said.setdefault(image, set()).add(answer)
    for split, entries in questions.items():
        (s.out / f"{split}.json").write_text(json.dumps(entries))
    pairs = []
    for image, found in said.items():
        text = " ".join([*sorted(found - shapes), *sorted(found & shapes)])
        shape = text.split()[-1]
        if shape in shapes:
            pairs.append({"image": f"train/images/{image}.png", "image_id": text,
                          "caption": [f"a {text}", f"the shape is a {shape}", f"the shape is a {text}"]})
    (s.out / "captions.json").write_text(json.dumps(pairs))
    (s.out / "told.json").write_text(json.dumps([
        {"image": f"train/images/{image}.png", "image_id": image, "caption": texts} for image, texts in told.items()]))
    texts = {t for p in pairs for t in p["caption"]} | set(names) | {q["question"] for q in questions["train"]}
    # Their own size: at half of it a small circle is a small rectangle.
    size = 64
    vocab = s.vocabulary(texts, pairs[0]["image"], s.data, size)
    common = {"image_root": s.data, "image_res": size, "vocab": vocab, "mlm_probability": 0.4, "flip": True,
              "crop_scale": "[0.8, 1.0]"}
    things = s.train("pretrained", ["pretrain"], "nano.yaml", {
        **common, "train_file": f"[{s.out / 'captions.json'}]", "hard_negatives": False, "max_steps": 800,
        "optimizer.lr": 1e-3,
    })
    start = s.train("told", ["pretrain"], "nano.yaml", {
        **common, "train_file": f"[{s.out / 'told.json'}]", "init_albef": things, "losses.ita": False,
        "losses.itm": False, "max_steps": 1600, "optimizer.lr": 5e-4,
    })
    model = start
    # Larger at the end, as in the paper: more patches for a shape of ten pixels.
    for name, size, steps in [("vqa", size, 1100), ("vqa-more", 96, 800)]:
        model = s.train(name, ["finetune", "vqa"], "vqa.yaml", {
            "checkpoint": model, "train_file": f"[{s.out / 'train.json'}]", "vqa_root": s.data, "vg_root": s.data,
            "image_res": size, "max_steps": steps, "optimizer.lr": 3e-4, "distill": False, "flip": True,
        })
    lines = list(ACCURACY)
    for split, what in [("val", "held-out training pictures"), ("test", "its test split")]:
        found = s.evaluate(split, "vqa", "--model", model, "--annotations", s.out / f"{split}.json", "--image-root", s.data,
                           "--answer-list", s.out / "answers.json", "--k", 13, "--text-baseline", s.out / "train.json")
        lines.append(accuracy(f"easy-VQA, {what}", found))
    s.write([*lines, "", f"`nano`, {size} px, seed {s.o.seed}; training took {s.seconds()} s."])


def permuted(entries, root, folder):
    """Each picture with its three boxes in all six orders."""
    from PIL import Image

    out = []
    folder.mkdir(parents=True, exist_ok=True)
    for i, entry in enumerate(entries):
        picture = Image.open(root / entry["images"][0]).convert("RGB")
        boxes = [picture.crop((x, 0, x + 100, 100)) for x in (0, 150, 300)]
        for n, order in enumerate(itertools.permutations(boxes)):
            for x, box in zip((0, 150, 300), order):
                picture.paste(box, (x, 0))
            name = f"{i}-{n}.png"
            picture.save(folder / name)
            out.append({**entry, "images": [name, name]})
    return out


def nlvr1(s):
    root = s.out / "pictures"
    for split in ["train", "val", "test"]:
        if not (root / split).exists():
            for shard in sorted((s.data / split).glob("*.tar")):
                with tarfile.open(shard) as tar:
                    tar.extractall(root / "all", filter="data")
            (root / split).mkdir(parents=True)
    pictures = {"train": root / "all", "val": s.data, "test": root / "all"}
    train = listed(s.data / "nlvr_train.json")
    many = root / "orders"
    if not (s.out / "train.json").exists():
        entries = permuted(train, pictures["train"], many)
        (s.out / "captions.json").write_text(json.dumps([
            {"image": e["images"][0], "caption": e["sentence"], "image_id": e["identifier"]}
            for e in entries if e["label"] == "True"]))
        (s.out / "train.json").write_text(json.dumps(entries))
    texts = {e["sentence"] for e in train}
    vocab = s.vocabulary(texts, "0-0.png", many, 64)
    start = s.train("pretrained", ["pretrain"], "nano.yaml", {
        "train_file": f"[{s.out / 'captions.json'}]", "image_root": many, "image_res": 64, "vocab": vocab,
        "negative_temp": 0.07, "max_steps": 200, "optimizer.lr": 6e-4,
    })
    steps = len(train) * 6 // 64
    val = s.out / "val.json"
    val.write_text(json.dumps([
        {**e, "images": [str((pictures["val"] / i).resolve()) for i in e["images"]]}
        for e in listed(s.data / "nlvr_val.json")]))
    model = s.train("nlvr", ["finetune", "nlvr"], "nlvr.yaml", {
        "checkpoint": start, "train_file": f"[{s.out / 'train.json'}]", "val_file": f"[{val}]", "image_root": many,
        "image_res": 64, "max_steps": 2 * steps, "optimizer.lr": 4e-4, "distill": False, "crop_scale": "[1.0, 1.0]",
    })
    lines = list(ACCURACY)
    for split, source, where in [("val", val, many), ("test", s.data / "nlvr_test.json", pictures["test"])]:
        found = s.evaluate(split, "nlvr", "--model", model, "--annotations", source, "--image-root", where,
                           "--text-baseline", s.data / "nlvr_train.json")
        lines.append(accuracy(f"NLVR 1, {split}", found))
    s.write([*lines, "", f"`nano`, two views of 64 px, seed {s.o.seed}; training took {s.seconds()} s."])


def photos(s):
    root = s.out / "pictures"
    if not root.exists():
        part = s.out / "pictures.part"
        for shard in sorted((s.data / "train").glob("*.tar")):
            with tarfile.open(shard) as tar:
                tar.extractall(part, filter="data")
        part.rename(root)
    mini = CONFIGS.parent / "models" / "mini"
    model = s.train("retrieval", ["finetune", "retrieval"], "retrieval_flickr.yaml", {
        "checkpoint": mini, "train_file": f"[{s.data / 'flickr8k_train.json'}]", "image_root": root, "image_res": 64,
        "max_steps": s.o.steps, "optimizer.lr": 2e-4, "distill": False, "queue_size": 512, "negative_temp": 0.07,
        "flip": True, "crop_scale": "[0.6, 1.0]",
    })
    lines = ["R@1 / R@10 on the complete test list, 1,000 photographs with five sentences each:", "", *RECALL]
    for name, weights in [("`mini`, zero-shot", mini), ("fine-tuned on 1,000 photographs", model)]:
        found = s.evaluate(name.split()[0].strip("`,"), "retrieval", "--model", weights, "--annotations",
                           s.data / "flickr8k_test.json", "--image-root", s.data, "--k", 16)
        lines.append(recall(name, found))
    s.write([*lines, "", f"64 px, seed {s.o.seed}; training took {s.seconds()} s."])


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("what", choices=["scenes", "grounding", "easy-vqa", "nlvr1", "photos"])
    a.add_argument("--albef", required=True)
    a.add_argument("--output", required=True)
    a.add_argument("--data", help="folder of the data set, where one is needed")
    a.add_argument("--seed", type=int, default=42)
    a.add_argument("--threads", type=int, help="threads of the program; all cores if not given")
    a.add_argument("--steps", type=int, default=200, help="steps of fine-tuning on photographs")
    o = a.parse_args()
    if o.what in ["easy-vqa", "nlvr1", "photos"] and not o.data:
        a.error(f"{o.what} needs --data FOLDER")
    {"scenes": scenes, "grounding": grounding, "easy-vqa": easy_vqa, "nlvr1": nlvr1, "photos": photos}[o.what](Study(o))


if __name__ == "__main__":
    main()

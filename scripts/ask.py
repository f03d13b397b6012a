#!/usr/bin/env python3
"""Trains `models/ask`, the small model for questions, on composed scenes, and measures it.

    scripts/ask.py --albef ALBEF --output OUT [--threads 1]

Its image side starts from `models/mini`, its text side from random weights and the few words of the scenes. Three stages: contrast
alone; all three losses; questions with their answers. Scenes with two things in each other's places are drawn together, so that where
a thing is matters. Measured on things that never meet in training (val) and in an art style that is never trained on (test).
Everything that is there already is kept, so an interrupted run goes on. Writes OUT/ask, the model in f16, and prints its accuracy.
So few steps do not teach it to answer yes or no: of its own it answers with things only. Needs nothing beyond Python's own library.
"""
import argparse
import json
from pathlib import Path

from study import CONFIGS, image_side, kept, run, say, settings

ABOUT = "names what is on the left, on the right, at the top or at the bottom, of two drawn things; knows eighty, and no photographs"
COMMON = {
    "image_res": 48, "dropout": 0, "momentum_dropout": 0, "crop_scale": "[0.9,1.0]", "flip": False, "rand_augment": "[0,0]",
    "precision": "bf16", "schedular.sched": "per_step", "schedular.epochs": 100000, "schedular.warmup_steps": 50, "num_workers": 1,
    "seed": 42, "keep_last_n": 1, "checkpoint_every": 100, "optimizer.weight_decay": 0.05, "schedular.min_lr": 1e-5,
}
WITHIN_BATCH = {"queue_size": 0, "momentum_contrast": False, "alpha": 0, "momentum": 0.9, "itc_only_steps": 0, "image_index": True}
STAGES = {
    "contrast": ({"things": 2, "captions": 2, "swapped": 3}, {
        "losses.itm": False, "losses.mlm": False, "batch_size": 192, "optimizer.lr": 5e-4, "schedular.min_lr": 3e-4, "max_steps": 400,
    }),
    "fused": ({"things": 1, "captions": 2, "swapped": 4}, {
        "batch_size": 128, "optimizer.lr": 4e-4, "max_steps": 300, "hard_negatives_start": 150,
    }),
}
QUESTIONS = {"batch_size_train": 64, "optimizer.lr": 4e-4, "max_steps": 800}


class Study:
    def __init__(self, options):
        self.o, self.out = options, Path(options.output)
        self.scenes = self.out / "scenes"

    def albef(self, *command, log):
        return run(self.o.albef, *command, "--threads", self.o.threads, log=self.out / "log" / f"{log}.txt")

    def trained(self, name, command, config, values):
        folder = self.out / "runs" / name
        if not (folder / "model" / "vocab.txt").exists():
            say(f"training {name}")
            self.albef(*command, CONFIGS / config, "--output", folder, "--resume", *settings({
                "image_root": self.scenes, **COMMON, **values}), log=name)
        return folder / "model"

    def mixture(self, parts):
        together = {"swapped": ", together: 2"}
        return "[" + ", ".join(f"{{path: '{self.scenes}/train_{name}.json', weight: {weight}{together.get(name, '')}}}"
                               for name, weight in parts.items()) + "]"

    def train(self):
        if not (self.scenes / "answers.json").exists():
            self.albef("data", "scenes", "--output", self.scenes, "--scenes", 6000, "--concepts", 80, log="scenes")
        vision = self.out / "vision.safetensors"
        vision.write_bytes(image_side())
        start = {"init_vision": vision}
        for name, (parts, stage) in STAGES.items():
            model = self.trained(name, ["pretrain"], "nano.yaml", {
                "preset": CONFIGS / "ask.json", "train_file": self.mixture(parts), "vocab": self.scenes / "vocab.txt",
                **WITHIN_BATCH, **start, **stage})
            start = {"init_albef": model}
        return self.trained("questions", ["finetune", "vqa"], "scenes_task.yaml", {
            "checkpoint": model, "train_file": f"[{self.scenes / 'train_vqa.json'}]", "answer_list": self.scenes / "answers.json",
            **QUESTIONS})

    def measure(self, model):
        print("| set | questions | accuracy | *what is …* | *is there …* | most frequent answer |\n|" + " --- |" * 6)
        for split in ("val", "test"):
            saved = self.out / "measured" / f"{split}.outcomes.json"
            saved.parent.mkdir(exist_ok=True)
            found = kept(saved.with_name(f"{split}.json"), lambda: self.albef(
                "evaluate", "vqa", "--model", model, "--annotations", self.scenes / f"{split}_vqa.json", "--image-root", self.scenes,
                "--answer-list", self.scenes / "answers.json", "--json", "--save-outcomes", saved, log="measure"))
            kinds = {"what": [], "is": []}
            for item in json.loads(saved.read_text())["sets"][0]["items"]:
                kinds[item["key"].split(": ")[1].split()[0]].append(item["values"][0])
            shares = [sum(values) / len(values) for values in kinds.values()]
            low, high = found["interval"]
            print(f"| {split} | {found['samples']} | {found['accuracy']:.1f} [{low:.1f}, {high:.1f}] | "
                  f"{shares[0]:.1f} | {shares[1]:.1f} | {found['majority']:.1f} |")


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--albef", required=True)
    a.add_argument("--output", required=True)
    a.add_argument("--threads", type=int, default=1)
    study = Study(a.parse_args())
    study.out.mkdir(parents=True, exist_ok=True)
    trained, model = study.train(), study.out / "ask"
    if not (model / "config.json").exists():
        run(study.o.albef, "convert", trained, "--to", "safetensors", "--dtype", "f16", "--output", model,
            log=study.out / "log" / "convert.txt")
        answers = [a for a in json.loads((trained / "defaults.json").read_text())["answers"] if a not in ("yes", "no")]
        (model / "defaults.json").write_text(json.dumps({"about": ABOUT, "background": "white", "answers": answers}, indent=1) + "\n")
    study.measure(model)


if __name__ == "__main__":
    main()

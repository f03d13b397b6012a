#!/usr/bin/env python3
"""Icons for the same processor time: the official pre-training code, this program with the same settings, and with contrast alone.

    scripts/icon_baseline.py --official ALBEF --albef PROGRAM --corpus CORPUS --minilm model.safetensors --output OUT [--minutes 12]

ALBEF is a checkout of the official code, whose model and losses are used as they are (with the sizes of configs/icons.json; MiniLM is
its text side's start). All train on the icons that at least twelve sets draw, in gray, with the settings that help a small set:
batches of 96, a queue of 960, crops from 85 %, no RandomAugment. One thread each; the official code in fp32, this program with
bf16 products. How many steps fit is measured in a short trial. Measured on the validation galleries of CORPUS (tools/icons) by cosine.
Everything that is there already is kept. Needs torch, transformers 4.25, timm, safetensors and Pillow.
"""
import argparse
import json
import math
import random
import resource
import statistics
import sys
import time
import types
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parent / "golden_sets"))
import official  # noqa: E402
from icon_ablations import unpacked  # noqa: E402
from study import CONFIGS, kept, run, say, settings  # noqa: E402

SIDE, BATCH, QUEUE, PEAK, FLOOR, WARM_UP = 32, 96, 960, 3e-4, 1e-5, 50


def sizes():
    found = json.loads((CONFIGS / "icons.json").read_text())
    vision, text = found["vision"], found["text"]
    return {
        "vision": {**vision, "image_res": SIDE, "mlp_ratio": vision["mlp_width"] // vision["width"]},
        "text": {**text, "hidden_act": "gelu", "max_position_embeddings": text["max_positions"], "type_vocab_size": text["type_vocab"],
                 "special_ids": {"pad": 0, "cls": 101, "sep": 102, "mask": 103, "unk": 100}},
        "embed_dim": found["embed_dim"], "temp": 0.07, "queue_size": QUEUE, "momentum": 0.98, "mlm_probability": 0.15,
        "vqa": {"decoder_layers": text["layers"]},
    }


def started(config, minilm):
    model = official.build(config, "pretrain")
    words = {f"text_encoder.bert.{key.removeprefix('bert.')}": tensor for key, tensor in load_file(minilm).items()}
    known = model.state_dict()
    model.load_state_dict({key: tensor for key, tensor in words.items() if key in known}, strict=False)
    model.copy_params()
    return model


def image(path, draw):
    found = Image.open(path).convert("RGB")
    side = round(min(found.size) * math.sqrt(draw.uniform(0.85, 1.0)))
    left, top = (draw.randint(0, length - side) for length in found.size)
    found = found.resize((SIDE, SIDE), Image.BICUBIC, (left, top, left + side, top + side))
    pixels = torch.frombuffer(bytearray(found.tobytes()), dtype=torch.uint8).view(SIDE, SIDE, 3).permute(2, 0, 1) / 255
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)))
    return (pixels - mean) / deviation


def batches(data, tokenizer, draw):
    entries = json.loads((data / "icons.json").read_text())
    while True:
        draw.shuffle(entries)
        for at in range(0, len(entries) - BATCH + 1, BATCH):
            part = entries[at: at + BATCH]
            texts = tokenizer([draw.choice(e["caption"]) for e in part], padding="longest", truncation=True, max_length=25,
                              return_tensors="pt")
            yield torch.stack([image(data / "icons" / e["image"], draw) for e in part]), texts


def official_run(o, folder):
    """Trains the official code, and leaves `model.pth` with its sizes."""
    from transformers import BertTokenizer

    torch.set_num_threads(1)
    torch.manual_seed(o.seed)
    draw = random.Random(o.seed)
    official.start(o.official)
    config = sizes()
    model = started(config, o.minilm).train()
    tokenizer = BertTokenizer(str(o.minilm.parent / "vocab.txt"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK, weight_decay=0.02)
    began, step, sums = time.process_time(), 0, [0.0, 0.0, 0.0]
    for images, texts in batches(o.output, tokenizer, draw):
        done = (time.process_time() - began) / 60 / o.minutes
        if done >= 1:
            break
        rate = min(1, (step + 1) / WARM_UP) * (FLOOR + (PEAK - FLOOR) * (1 + math.cos(math.pi * done)) / 2)
        for group in optimizer.param_groups:
            group["lr"] = rate
        text = types.SimpleNamespace(input_ids=texts.input_ids, attention_mask=texts.attention_mask)
        losses = model(images, text, alpha=0.4 * min(1, step * BATCH / 48635))
        optimizer.zero_grad()
        sum(losses).backward()
        optimizer.step()
        step, sums = step + 1, [s + loss.item() for s, loss in zip(sums, losses)]
        if step % 50 == 0:
            mlm, ita, itm = (s / 50 for s in sums)
            sums = [0.0, 0.0, 0.0]
            minutes = (time.process_time() - began) / 60
            say(f"{minutes:.1f} min, {step * BATCH} pairs: mlm {mlm:.2f} ita {ita:.2f} itm {itm:.3f}")
    folder.mkdir(parents=True, exist_ok=True)
    found = json.loads((CONFIGS / "icons.json").read_text())
    found["vision"]["image_res"] = SIDE
    (folder / "config.json").write_text(json.dumps(found, indent=1))
    (folder / "vocab.txt").write_bytes((o.minilm.parent / "vocab.txt").read_bytes())
    torch.save({"model": model.state_dict()}, folder / "model.pth")
    return {"model": str(folder / "model.pth"), "pairs": step * BATCH, "minutes": (time.process_time() - began) / 60}


# This program: with the settings of the official run, and with contrast within the batch alone (CLIP's recipe).
OURS = {
    "this program, same settings": {
        "batch_size": BATCH, "queue_size": QUEUE, "momentum": 0.98, "alpha": 0.4, "image_index": False, "negative_temp": 0.07,
        "optimizer.lr": PEAK, "schedular.min_lr": FLOOR,
        "schedular.warmup_steps": WARM_UP,
    },
    "this program, contrast alone": {
        "losses.itm": False, "losses.mlm": False, "queue_size": 0, "momentum_contrast": False, "momentum": 0.9, "batch_size": 128,
        "optimizer.lr": 7e-4, "schedular.min_lr": FLOOR, "schedular.warmup_steps": 100,
    },
}


def own_run(o, folder, values):
    """Trains this program for as many steps as fit."""
    def steps(count, name):
        def spent():
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            return used.ru_utime + used.ru_stime

        began = spent()
        run(o.albef, "pretrain", CONFIGS / "mini.yaml", "--output", folder / name, "--threads", 1, *settings({
            "preset": CONFIGS / "icons.json", "init_text": o.minilm, "image_root": o.output / "icons",
            "train_file": f"[{o.output / 'icons.json'}]", "image_res": SIDE, "crop_scale": "[0.85,1.0]", "flip": False,
            "rand_augment": "[0,0]", "num_workers": 1, "itc_only_steps": 0, "seed": o.seed, "max_steps": count,
            "checkpoint_every": 10000, "keep_last_n": 1, **values,
        }), log=folder / "log.txt")
        return spent() - began

    count = max(1, round(o.minutes * 60 / (steps(40, "trial") / 40)))
    seconds = steps(count, "run")
    return {"model": str(folder / "run" / "model"), "pairs": count * values["batch_size"], "minutes": seconds / 60}


def recalls(o, model, name):
    """R@1 and R@10, text to image, by cosine, in the mean of the validation galleries."""
    found = []
    for path in sorted(o.corpus.glob("validation/*.json")):
        report = kept(o.output / name / f"{path.stem}.json", lambda path=path: run(
            o.albef, "evaluate", "retrieval", "--model", model, "--annotations", path, "--image-root", path.parent, "--rerank-k", 0,
            "--json", "--threads", 1, log=o.output / name / "measure.txt"))
        found.append([report["itc"][key] for key in ("txt_r1", "img_r1", "img_r10")])
    return [statistics.mean(values) for values in zip(*found)]


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--official", required=True, type=Path)
    a.add_argument("--albef", required=True)
    a.add_argument("--corpus", required=True, type=Path)
    a.add_argument("--minilm", required=True, type=Path, help="weights of all-MiniLM-L6-v2, with vocab.txt beside them")
    a.add_argument("--output", required=True, type=Path)
    a.add_argument("--minutes", type=float, default=12, help="of processor time, from the first step")
    a.add_argument("--seed", type=int, default=42)
    a.add_argument("--rows", nargs="+", choices=["official code", *OURS], default=["official code", *OURS])
    o = a.parse_args()
    kept(o.output / "icons.json", lambda: json.dumps(unpacked(o.corpus, o.output)))
    print("| row | processor time | pairs | image→text R@1 | text→image R@1 | text→image R@10 |\n|" + " --- |" * 6)
    for name in o.rows:
        folder = o.output / name.replace(",", "").replace(" ", "-")
        done = kept(folder / "done.json", lambda: json.dumps(
            own_run(o, folder, OURS[name]) if name in OURS else official_run(o, folder)))
        values = " | ".join(f"{value:.1f}" for value in recalls(o, done["model"], folder.name))
        print(f"| {name} | {done['minutes']:.1f} min | {done['pairs']} | {values} |", flush=True)


if __name__ == "__main__":
    main()

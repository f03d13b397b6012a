#!/usr/bin/env python3
"""The official pre-training code on icons, for as much processor time as a run of this program gets.

    scripts/icon_baseline.py --official ALBEF --data OUT --minilm model.safetensors --output RUN [--minutes 12]

ALBEF is a checkout of the official code, whose model and losses are used as they are (with the sizes of configs/icons.json; MiniLM is
its text side's start); OUT is that of scripts/icon_ablations.py, whose pairs are trained on. The settings that help a small set are
those of the ablation: batches of 96, a queue of 960, crops from 85 %, no RandomAugment. One thread, fp32. Writes RUN/model.pth with
its `config.json`, which `albef evaluate retrieval --model RUN/model.pth` opens, and prints the losses and pairs. Needs torch,
transformers 4.25, timm, safetensors and Pillow.
"""
import argparse
import json
import math
import random
import sys
import time
import types
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parent / "golden_sets"))
import official  # noqa: E402

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
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


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--official", required=True, type=Path)
    a.add_argument("--data", required=True, type=Path)
    a.add_argument("--minilm", required=True)
    a.add_argument("--output", required=True, type=Path)
    a.add_argument("--minutes", type=float, default=12, help="of processor time, from the first step")
    a.add_argument("--seed", type=int, default=42)
    o = a.parse_args()
    from transformers import BertTokenizer

    torch.set_num_threads(1)
    torch.manual_seed(o.seed)
    draw = random.Random(o.seed)
    official.start(o.official)
    config = sizes()
    model = started(config, o.minilm).train()
    tokenizer = BertTokenizer(str(Path(o.minilm).parent / "vocab.txt"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK, weight_decay=0.02)
    began, step, sums = time.process_time(), 0, [0.0, 0.0, 0.0]
    for images, texts in batches(o.data, tokenizer, draw):
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
            print(f"{minutes:.1f} min, {step * BATCH} pairs: mlm {mlm:.2f} ita {ita:.2f} itm {itm:.3f}", flush=True)
    o.output.mkdir(parents=True, exist_ok=True)
    torch.save({"model": model.state_dict()}, o.output / "model.pth")
    found = json.loads((CONFIGS / "icons.json").read_text())
    found["vision"]["image_res"] = SIDE
    (o.output / "config.json").write_text(json.dumps(found, indent=1))
    (o.output / "vocab.txt").write_bytes((Path(o.minilm).parent / "vocab.txt").read_bytes())
    print(f"{step * BATCH} pairs in {(time.process_time() - began) / 60:.1f} min of processor time")


if __name__ == "__main__":
    main()

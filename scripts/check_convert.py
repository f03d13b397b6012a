#!/usr/bin/env python3
"""Holds what `albef convert` wrote against its source, with PyTorch itself.

    pip install torch numpy
    python scripts/check_convert.py make ALBEF.pth                  # random weights in the official layout
    albef convert ALBEF.pth --to official --output out.pth
    albef convert ALBEF.pth --to lavis --output lavis.pth
    albef convert ALBEF.pth --to safetensors --shard-size 500MB --output out
    python scripts/check_convert.py compare ALBEF.pth out.pth       # equal tensors, tied ones tied
    python scripts/check_convert.py compare ALBEF.pth lavis.pth --lavis
    python scripts/check_convert.py compare ALBEF.pth out

Files of `torch.save` are loaded with `weights_only=True`, mapped and not; parts of safetensors are read by their
published layout, without another package. Exit code 0 if all is equal, 1 if not.
"""

import argparse
import json
import pathlib
import sys

import numpy as np
import torch

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}
TYPES = "embeddings.token_type_embeddings.weight"
POSITIONS = "embeddings.position_embeddings.weight"


def bert(prefix: str, layers: int, fusion: int, width: int, rows: int, out: dict) -> None:
    def linear(name, outputs, inputs):
        out[f"{name}.weight"], out[f"{name}.bias"] = (outputs, inputs), (outputs,)

    def norm(name):
        out[f"{name}.weight"], out[f"{name}.bias"] = (width,), (width,)

    e = f"{prefix}.embeddings"
    out[f"{e}.position_ids"] = None
    out[f"{e}.word_embeddings.weight"] = (rows, width)
    out[f"{e}.position_embeddings.weight"], out[f"{e}.token_type_embeddings.weight"] = (512, width), (2, width)
    norm(f"{e}.LayerNorm")
    for i in range(layers):
        p = f"{prefix}.encoder.layer.{i}"
        for kind in ["attention", "crossattention"][: 1 + (i >= fusion)]:
            for part in ["query", "key", "value"]:
                linear(f"{p}.{kind}.self.{part}", width, width)
            linear(f"{p}.{kind}.output.dense", width, width)
            norm(f"{p}.{kind}.output.LayerNorm")
        linear(f"{p}.intermediate.dense", 4 * width, width)
        linear(f"{p}.output.dense", width, 4 * width)
        norm(f"{p}.output.LayerNorm")


def make(path: pathlib.Path, seed: int) -> None:
    """A pre-training checkpoint of the published sizes, random weights, in the layout of the official scripts."""
    width, rows, queue = 768, 30522, 65536
    shapes: dict = {"temp": ()}
    v = "visual_encoder"
    shapes |= {f"{v}.cls_token": (1, 1, width), f"{v}.pos_embed": (1, 257, width)}
    shapes |= {f"{v}.patch_embed.proj.weight": (width, 3, 16, 16), f"{v}.patch_embed.proj.bias": (width,)}
    for i in range(12):
        b = f"{v}.blocks.{i}"
        for name, outputs, inputs in [
            ("attn.qkv", 3 * width, width), ("attn.proj", width, width), ("mlp.fc1", 4 * width, width),
            ("mlp.fc2", width, 4 * width),
        ]:
            shapes |= {f"{b}.{name}.weight": (outputs, inputs), f"{b}.{name}.bias": (outputs,)}
        for name in ["norm1", "norm2"]:
            shapes |= {f"{b}.{name}.weight": (width,), f"{b}.{name}.bias": (width,)}
    shapes |= {f"{v}.norm.weight": (width,), f"{v}.norm.bias": (width,)}
    bert("text_encoder.bert", 12, 6, width, rows, shapes)
    h = "text_encoder.cls.predictions"
    shapes |= {f"{h}.bias": (rows,), f"{h}.transform.dense.weight": (width, width)}
    shapes |= {f"{h}.transform.{n}": (width,) for n in ["dense.bias", "LayerNorm.weight", "LayerNorm.bias"]}
    for name in ["vision_proj", "text_proj"]:
        shapes |= {f"{name}.weight": (256, width), f"{name}.bias": (256,)}
    shapes |= {
        name.replace(".", "_m.", 1): shape for name, shape in list(shapes.items()) if name != "temp"
    }
    shapes |= {"itm_head.weight": (2, width), "itm_head.bias": (2,)}
    shapes |= {"image_queue": (256, queue), "text_queue": (256, queue)}
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        if shape is None:
            state[name] = torch.arange(512).expand(1, -1)
        else:
            state[name] = 0.02 * torch.randn(shape, generator=generator)
    state["temp"] = torch.tensor(0.07)
    state["queue_ptr"] = torch.zeros(1, dtype=torch.long)
    for m in ["", "_m"]:
        part = f"text_encoder{m}"
        state[f"{part}.cls.predictions.decoder.weight"] = state[f"{part}.bert.embeddings.word_embeddings.weight"]
        state[f"{part}.cls.predictions.decoder.bias"] = state[f"{part}.cls.predictions.bias"]
    torch.save({"model": state, "epoch": 29}, path)
    print(f"{path}: {len(state)} tensors, {path.stat().st_size / 1e9:.2f} GB")


def safetensors(path: pathlib.Path) -> dict:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    data = np.memmap(path, dtype=np.uint8, mode="r", offset=8 + length)
    out = {}
    for name, info in header.items():
        if name != "__metadata__":
            start, end = info["data_offsets"]
            dtype = DTYPES[info["dtype"]]
            flat = torch.from_numpy(data[start:end].copy()) if end > start else torch.empty(0, dtype=torch.uint8)
            out[name] = flat.view(dtype).reshape(info["shape"])
    return out


def load(path: pathlib.Path) -> dict:
    if path.is_dir():
        index = path / "model.safetensors.index.json"
        if index.exists():
            content = json.loads(index.read_text())
            parts = {name: safetensors(path / name) for name in set(content["weight_map"].values())}
            size = sum(t.numel() * t.element_size() for part in parts.values() for t in part.values())
            if size != content["metadata"]["total_size"]:
                sys.exit(f"{index}: total_size is {content['metadata']['total_size']}, the parts have {size}")
            return {name: parts[part][name] for name, part in content["weight_map"].items()}
        for name in ["model.safetensors", "model.pth"]:
            if (path / name).exists():
                return load(path / name)
        sys.exit(f"{path}: no weights")
    if path.suffix == ".safetensors":
        return safetensors(path)
    mapped = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    read = torch.load(path, map_location="cpu", weights_only=True)
    mapped, read = mapped.get("model", mapped), read.get("model", read)
    for name, tensor in read.items():
        if not torch.equal(tensor, mapped[name]):
            sys.exit(f"{path}: `{name}` differs when it is mapped")
    return read


def compare(source: dict, found: dict, lavis: bool) -> list[str]:
    wrong = []
    for name, tensor in source.items():
        if lavis and name.endswith(TYPES):
            if name in found:
                wrong.append(f"`{name}` is there, and LAVIS has no such table")
            continue
        if name not in found:
            wrong.append(f"`{name}` is missing")
            continue
        want = tensor
        types = source.get(name[: -len(POSITIONS)] + TYPES) if lavis and name.endswith(POSITIONS) else None
        if types is not None:
            want = tensor.float() + types[0].float()
        if found[name].shape != want.shape:
            wrong.append(f"`{name}` is {tuple(found[name].shape)} instead of {tuple(want.shape)}")
        elif not torch.equal(found[name], want.to(found[name].dtype)):
            wrong.append(f"`{name}` differs by up to {(found[name].float() - want.float()).abs().max():.3g}")
    for name in sorted(set(found) - set(source)):
        root, _, rest = name.partition(".")
        original = f"{root.removesuffix('_m')}.{rest}"
        known = name.endswith("position_ids") or "predictions.decoder." in name or "crossattention.self." in name
        if not known and not name.endswith(TYPES) and not (root.endswith("_m") and original in found):
            wrong.append(f"`{name}` is not in the source")
    for name, tensor in found.items():
        if name.endswith("predictions.decoder.weight"):
            words = found.get(name.replace("cls.predictions.decoder", "bert.embeddings.word_embeddings"))
            if words is not None and not torch.equal(words, tensor):
                wrong.append(f"`{name}` is not the word table")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("make", help="write random weights in the official layout")
    one.add_argument("path", type=pathlib.Path)
    one.add_argument("--seed", type=int, default=1)
    two = commands.add_parser("compare", help="hold a converted model against its source")
    two.add_argument("source", type=pathlib.Path)
    two.add_argument("converted", type=pathlib.Path)
    two.add_argument("--lavis", action="store_true", help="token types are folded into the positions")
    a = parser.parse_args()
    if a.command == "make":
        make(a.path, a.seed)
        return 0
    source, found = load(a.source), load(a.converted)
    wrong = compare(source, found, a.lavis)
    more = len(found) - len(set(found) & set(source))
    print("\n".join(wrong[:20]) or f"{len(source)} tensors are equal, {more} more are as they should be")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

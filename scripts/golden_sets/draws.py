"""Sizes, weights and inputs of sets, drawn at random."""

import math
import random
import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import official
from fixtures import Fixture, Golden

SPECIAL = ["pad", "unk", "cls", "sep", "mask"]
WILD = "é ü ß ñ Ω 中 文 字 か カ 한 Привет ﬁ ½ ² № … — “ ” ’ € £ → ✓ ！ ０ Ⅳ İ ſ 😀".split()
WILD += ["\u0301", "\u200b", "\u00a0", "\t", "\x07"]
PUNCTUATION = ". , ! ? ' \" ( ) * # : ; ~ - / & % $ @ [SEP] [MASK] <person> 's".split()


class Chance(random.Random):
    """Random numbers of Python and of torch from one seed."""

    def __init__(self, seed: str):
        super().__init__(seed)
        self.torch = torch.Generator().manual_seed(self.getrandbits(48))

    def normal(self, *shape) -> Tensor:
        return torch.randn(shape, generator=self.torch)

    def unit(self, *shape) -> Tensor:
        return torch.rand(shape, generator=self.torch)

    def below(self, limit: int, *shape) -> Tensor:
        return torch.randint(limit, shape, generator=self.torch)


def sizes(chance: Chance, name: str) -> dict:
    """A configuration; in three of four the encoders are equally wide, which the decoder of answers needs."""
    pick, text_heads = chance.choice, chance.choice([1, 2, 3, 4, 5])
    hidden = text_heads * pick([8, 12, 16, 20])
    width = hidden if chance.random() < 0.75 else 8 * chance.randint(2, 9)
    patch, fused, fusion_layer = pick([4, 8, 14, 16, 32]), chance.randint(1, 6), chance.randint(1, 4)
    grid, batch, vocab_size = chance.randint(1, 5), chance.randint(2, 6), chance.randint(120, 1500)
    first = list(range(5)) if chance.random() < 0.3 else chance.sample(range(vocab_size), 5)
    return {
        "format": "albef-golden", "format_version": 1, "set": name,
        "vision": {
            "width": width, "depth": chance.randint(1, 5), "heads": pick([h for h in range(1, 9) if width % h == 0]),
            "mlp_ratio": pick([1, 2, 2.5, 4]), "patch": patch, "image_res": patch * grid, "layer_norm_eps": 1e-6,
            "num_patches": grid * grid,
        },
        "text": {
            "hidden": hidden, "layers": fusion_layer + fused, "heads": text_heads, "fusion_layer": fusion_layer,
            "intermediate": hidden * pick([1, 2, 4]), "vocab_size": vocab_size, "type_vocab_size": chance.randint(1, 3),
            "max_position_embeddings": chance.randint(30, 80), "layer_norm_eps": 1e-12, "hidden_act": "gelu",
            "special_ids": dict(zip(SPECIAL, first)),
        },
        "embed_dim": chance.randint(4, 40), "queue_size": batch * pick([1, 1, 2, 3, 5]), "batch": batch,
        "temp": round(chance.uniform(0.03, 0.3), 3), "momentum": pick([0.9, 0.99, 0.995]),
        "momentum_tasks": 0.995, "mlm_probability": pick([0.1, 0.15, 0.4]), "alpha": pick([0.1, 0.4, 0.8]),
        "vqa": {"decoder_layers": pick([fused, fused, max(1, fused - 1), fused + 1])},
        "nlvr": {"layers": fusion_layer + 2 * fused},
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
    }  # fmt: skip


def vocabulary(chance: Chance, config: dict, full: list[str]) -> list[str]:
    """Characters and some other pieces of the full list, with the special tokens where the configuration has them."""
    special, size = config["text"]["special_ids"], config["text"]["vocab_size"]
    ordinary = [piece for piece in full if not re.fullmatch(r"\[.*\]", piece)]
    letters = [p for p in ordinary if re.fullmatch(r"(##)?[a-z0-9]", p)]
    pieces = chance.sample(letters, len(letters)) + chance.sample([p for p in ordinary if p not in letters], size)
    pieces = iter(chance.sample(pieces[: size - 5], size - 5))
    names = {special[name]: f"[{name.upper()}]" for name in SPECIAL}
    return [names[i] if i in names else next(pieces) for i in range(size)]


def random_values(chance: Chance, name: str, shape) -> Tensor:
    """Of a size with which attention is neither uniform nor hard."""
    noise = chance.normal(*shape)
    if len(shape) <= 1:
        return 1 + 0.15 * noise if re.search(r"(norm\d?|LayerNorm)\.weight$", name) else 0.08 * noise
    if re.search(r"embeddings|cls_token|pos_embed", name):
        return 0.2 * noise
    gain = 1.3 if re.search(r"query|key|qkv|head", name) else 0.7
    return gain / math.sqrt(math.prod(shape[1:])) * noise


def weights(chance: Chance, golden: Golden) -> None:
    """The pre-training model, and for every task what that model does not have."""
    config, model = golden.config, official.build(golden.config, "pretrain")
    for name, p in model.named_parameters():
        if p.dim() > 0:
            p.data = random_values(chance, name, p.shape)
    model.copy_params()
    for name, p in model.named_parameters():
        if name.split(".")[0].endswith("_m"):
            p.data += 0.25 * (random_values(chance, name, p.shape) - (1 if re.search("orm.*weight", name) else 0))
    for queue in [model.image_queue, model.text_queue]:
        queue.copy_(nn.functional.normalize(chance.normal(*queue.shape), dim=0))
    model.queue_ptr[0] = config["batch"] * chance.randrange(config["queue_size"] // config["batch"])
    golden.weights, golden.heads = model.state_dict(), {}
    for task in tasks(config):
        other = official.build(config, task)
        for name in official.load(other, golden.weights, {}, task, golden.fusion_layer):
            value = random_values(chance, name, other.state_dict()[name].shape)
            if name == "idx_queue":
                value = torch.where(chance.unit(*value.shape) < 0.3, -100, 100 + chance.below(7, *value.shape))
            golden.heads[f"{task}.{name}"] = value


def tasks(config: dict) -> list[str]:
    """Question states are as wide as the text encoder, but the cross-attention of the official decoder takes images."""
    equal = config["vision"]["width"] == config["text"]["hidden"]
    return [task for task in official.TASKS if equal or task != "vqa"]


class Inputs:
    """Inputs of the fixtures of one set."""

    def __init__(self, chance: Chance, golden: Golden):
        self.chance, self.golden, self.config = chance, golden, golden.config
        self.text, self.vision = golden.config["text"], golden.config["vision"]
        self.special, self.batch = self.text["special_ids"], golden.config["batch"]
        pieces = (golden.folder / golden.vocabulary["tiny"]).read_text().split("\n")
        self.words = [piece for piece in pieces if re.fullmatch(r"[a-z0-9]+", piece)]

    def image(self, rows: int, size: int | None = None) -> Tensor:
        size = size or self.vision["image_res"]
        return self.chance.normal(rows, 3, size, size)

    def ids(self, *shape) -> Tensor:
        """Ordinary word pieces."""
        ordinary = torch.tensor([i for i in range(self.text["vocab_size"]) if i not in self.special.values()])
        return ordinary[self.chance.below(len(ordinary), *shape)]

    def texts(self, rows: int, longest: int = 16, end: bool = False, name: str = "") -> dict:
        """Padded texts, the first of full length; with `end`, [SEP] after each."""
        width = self.chance.randint(2, longest)
        lengths = [width, *(self.chance.randint(1 + end, width) for _ in range(rows - 1))]
        mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
        ids = torch.where(mask == 1, self.ids(rows, width), self.special["pad"])
        ids[:, 0] = self.special["cls"]
        if end:
            ids[torch.arange(rows), torch.tensor(lengths) - 1] = self.special["sep"]
        names = (f"{name}_ids", f"{name}_mask") if name else ("input_ids", "attention_mask")
        return dict(zip(names, [ids, mask]))

    def states(self, rows: int, length: int, width: int) -> Tensor:
        return self.chance.normal(rows, length, width)

    def masking(self, ids: Tensor, probability: float) -> dict:
        names = ["u_mask", "u_replace", "u_random"]
        out = {n: self.chance.unit(*ids.shape) for n in names}
        out["u_mask"][0, 1] = probability / 2  # a step without a masked word has no loss
        return {**out, "random_words": self.chance.below(self.text["vocab_size"], *ids.shape)}

    def negatives(self, rows: int) -> dict:
        return {f"u_negative_{n}": self.chance.unit(rows) for n in ["image", "text"]}

    def sentence(self, longest: int = 12, wild: float = 0.0) -> str:
        chance, out = self.chance, []
        for _ in range(chance.randint(1, longest)):
            word = chance.choice(WILD) if chance.random() < wild else chance.choice(self.words)
            out.append(chance.choice([word, word, word.upper(), word + chance.choice(self.words)]))
            if chance.random() < 0.2:
                out[-1] += chance.choice(PUNCTUATION)
        return chance.choice([" ", " ", " ", "  ", "-"]).join(out)

    def picture(self, width: int, height: int, mode: str = "RGB") -> Image.Image:
        """Coarse colored noise, enlarged."""
        coarse = Image.frombytes("RGB", (5, 4), self.chance.randbytes(60))
        large = coarse.resize((width, height), Image.Resampling.BICUBIC)
        if self.chance.random() < 0.5:  # also fine noise
            noise = Image.frombytes("RGB", (width, height), self.chance.randbytes(3 * width * height))
            large = Image.blend(large, noise, 0.4)
        return large.convert(mode)


def of_encoders(inputs: Inputs):
    """Fixtures of either encoder alone, and of the heads."""
    chance, text, vision, batch = inputs.chance, inputs.text, inputs.vision, inputs.batch
    grid = vision["image_res"] // vision["patch"]
    down, up = chance.randint(1, max(1, grid - 1)), grid + chance.randint(1, 3)
    grids = {"base": grid, "up": up, "down": down, "momentum": grid}
    for name, own in grids.items():
        params = {
            "image_res": own * vision["patch"], "attention_block": chance.randrange(vision["depth"]),
            "prefix": "visual_encoder_m." if name == "momentum" else "visual_encoder.",
        }  # fmt: skip
        given = {"image": inputs.image(chance.randint(1, 3), params["image_res"])}
        yield Fixture(f"vit_{name}", "vit", {"inputs.safetensors": given}, params, "pretrain")
    tokens, length = 1 + grid * grid, chance.randint(1, 20)
    for name in ["text", "text_momentum", "fusion", "multi_modal", "fusion_image_mask", "fusion_momentum"]:
        mode, rows = re.sub("_(image_mask|momentum)", "", name), chance.randint(1, 4)
        given = inputs.texts(rows, 24)
        layers = (0, text["fusion_layer"]) if mode == "text" else (text["fusion_layer"], text["layers"])
        if mode == "fusion":
            given["encoder_embeds"] = inputs.states(*given.pop("input_ids").shape, text["hidden"])
        if mode != "text":
            length = tokens if name != "fusion_image_mask" else chance.randint(2, 20)
            given["image_embeds"] = inputs.states(rows, length, vision["width"])
            given["image_mask"] = torch.ones(rows, length, dtype=torch.long)
        if name == "fusion_image_mask":
            given["image_mask"] = (chance.unit(rows, length) < 0.6).long()
            given["image_mask"][torch.arange(rows), chance.below(length, rows)] = 1
        prefix = "text_encoder_m.bert." if "momentum" in name else "text_encoder.bert."
        params = {"mode": mode, "prefix": prefix, "attention_layer": chance.randrange(*layers)}
        yield Fixture(f"bert_{name}", "bert", {"inputs.safetensors": given}, params, "pretrain")
    given = {**inputs.texts(batch, 18), "image": inputs.image(batch)}
    masked, position = given["input_ids"].clone(), (given["attention_mask"].sum(1) - 1).clamp(min=1)
    masked[torch.arange(batch), position] = inputs.special["mask"]
    pairs = torch.cartesian_prod(torch.arange(batch), torch.arange(batch)).T
    given |= {"masked_input_ids": masked, "pair_image": pairs[0], "pair_text": pairs[1]}
    given |= {"mlm_row": torch.arange(batch), "mlm_position": position}
    yield Fixture("projections", "projections", {"inputs.safetensors": given}, None, "pretrain")


def of_steps(inputs: Inputs):
    """Fixtures of training steps."""
    chance, config, batch = inputs.chance, inputs.config, inputs.batch
    for alpha in [0, config["alpha"]]:
        given = {**inputs.texts(batch, 18), "image": inputs.image(batch), **inputs.negatives(batch)}
        given |= inputs.masking(given["input_ids"], config["mlm_probability"])
        params = {"alpha": alpha, "momentum": config["momentum"], "sums": ["sum", "l2norm"]}
        name = f"pretrain_step_{named(alpha)}"
        yield Fixture(name, "pretrain_step", {"inputs.safetensors": given}, params, "pretrain")
    yield trajectory(inputs)
    for distill, alpha in [(True, config["alpha"]), (True, 0.0), (False, config["alpha"])]:
        idx = 100 + chance.below(4, batch)
        idx[0] = 100 + (idx[1] - 99) % 4  # another than that of the second
        given = {**inputs.texts(batch, 18), "image": inputs.image(batch), "idx": idx, **inputs.negatives(batch)}
        params = {"alpha": alpha, "distill": distill, "momentum": config["momentum"], "sums": ["sum", "l2norm"]}
        name = f"retrieval_train_{'distill' if distill else 'plain'}_{named(alpha)}"
        yield Fixture(name, "retrieval_train", {"inputs.safetensors": given}, params, "retrieval")
    for task, views, classes in [("nlvr", 2, 2), ("ve", 1, 3)]:
        for distill in [True, False]:
            rows = chance.randint(1, 4)
            given = {**inputs.texts(rows, 18), "image": inputs.image(views * rows)}
            given["targets"] = chance.below(classes, rows)
            params = {"alpha": config["alpha"] * distill, "distill": distill, "momentum": config["momentum_tasks"]}
            name = f"{task}_train_{'distill' if distill else 'plain'}"
            yield Fixture(name, f"{task}_train", {"inputs.safetensors": given}, params, task)
    rows = chance.randint(3, 6)  # two other images are drawn
    given = {**inputs.texts(rows), "image": inputs.image(rows), "u_index": chance.unit(rows, 2)}
    given |= {name: chance.unit(rows) for name in ["u_other", "u_order"]}
    yield Fixture("ta_step", "ta_step", {"inputs.safetensors": given}, {}, "ta")


def named(alpha: float) -> str:
    return f"alpha{alpha}".replace(".", "")


def trajectory(inputs: Inputs) -> Fixture:
    chance, config, given, steps = inputs.chance, inputs.config, {}, []
    first, count = chance.randint(2, 3), chance.randint(2, 5)  # steps of the first epoch, and of all
    warmup = chance.randint(1, 3)
    rate = round(chance.uniform(2e-4, 1e-3), 6)
    plan = {
        "optimizer": {"opt": "adamW", "lr": rate, "weight_decay": chance.choice([0.02, 0.1])},
        "scheduler": {
            "sched": "cosine", "lr": rate, "epochs": chance.randint(2, 5), "min_lr": 1e-5, "decay_rate": 1,
            "warmup_lr": 1e-4, "warmup_epochs": warmup, "cooldown_epochs": 0,
        },
        "betas": [0.9, 0.999], "eps": 1e-8,
    }  # fmt: skip
    for i in range(count):
        own = {**inputs.texts(inputs.batch), **inputs.negatives(inputs.batch)}
        own |= inputs.masking(own["input_ids"], config["mlm_probability"])
        own |= {"image": inputs.image(inputs.batch)} if i < 2 else {}
        given |= {f"step{i}.{name}": tensor for name, tensor in own.items()}
        epoch, alpha = int(i >= first), config["alpha"] * min(1, i / first)
        steps.append({"epoch": epoch, "alpha": alpha})
    width = inputs.vision["width"]
    most = 2 * rate * count
    return Fixture(
        "trajectory", "trajectory", {"inputs.safetensors": given, "steps.json": {**plan, "steps": steps}},
        {"image_of_step": [i % 2 for i in range(count)], "sums": ["sum", "l2norm"]}, "pretrain",
        {
            "mode": "mixed",
            "default": {
                "mode": "elementwise", "abs": 2e-5, "rel": 1e-5,
                "outliers": {"max_share": 2e-5, "abs": most, "why": "entries whose gradient is of rounding size"},
            },
            "losses": {"mode": "elementwise", "abs": 5e-5, "rel": 5e-5},
            "overrides": [
                {
                    "match": r"^checksum.*(\.key|attn\.qkv)\.bias$",
                    "mode": "elementwise", "abs": width * most, "rel": 0, "why": "sums of the next",
                },
                {
                    "match": r"(\.key\.bias|attn\.qkv\.bias)$", "rows_of_qkv_bias": [width, 2 * width],
                    "mode": "elementwise", "abs": most, "rel": 0,
                    "why": "the gradient of a key bias is zero but for rounding",
                },
                {"match": "^exp_avg", "mode": "tensor_max", "abs": 1e-7, "rel": 2e-3},
            ],
            "exact": ["queue_ptr"], "checksums": {"mode": "elementwise", "abs": 2e-3, "rel": 1e-4},
        },
    )  # fmt: skip


def of_answers(inputs: Inputs):
    """Fixtures of question answering."""
    chance, config, text = inputs.chance, inputs.config, inputs.text
    rows, length = chance.randint(1, 4), chance.randint(1, 9)
    given = inputs.texts(rows, 7, end=True)
    given["labels"] = given["input_ids"].masked_fill(given["attention_mask"] == 0, -100)
    given["encoder_states"] = inputs.states(rows, length, text["hidden"])
    given["encoder_mask"] = (torch.arange(length) <= chance.below(length, rows, 1)).long()
    params = {"prefix": "text_decoder.", "attention_layer": chance.randrange(config["vqa"]["decoder_layers"])}
    yield Fixture("bert_decoder", "bert_decoder", {"inputs.safetensors": given}, params, "vqa")
    for distill, alpha in [(True, config["alpha"]), (True, 0.0), (False, 0.0)]:
        counts = [chance.randint(1, 4) for _ in range(chance.randint(1, 4))]
        given = inputs.texts(len(counts), 12, name="question") | inputs.texts(sum(counts), 6, end=True, name="answer")
        given |= {"image": inputs.image(len(counts)), "weights": chance.unit(sum(counts))}
        params = {"alpha": alpha, "distill": distill, "momentum": config["momentum_tasks"]}
        params["answers_per_question"] = counts
        name = f"vqa_train_{'distill' if distill else 'plain'}_{named(alpha)}"
        yield Fixture(name, "vqa_train", {"inputs.safetensors": given}, params, "vqa")
    tokenizer, questions = inputs.golden.tokenizer(), [inputs.sentence(6) for _ in range(chance.randint(1, 4))]
    # Answers that share their first word piece could be picked in any order.
    firsts = chance.sample(inputs.words, chance.randint(4, min(30, len(inputs.words))))
    answers = [" ".join([w, *chance.sample(inputs.words, chance.choice([0, 0, 1, 2]))]) for w in firsts]
    given = {"image": inputs.image(len(questions))}
    for name, listed, eos in [("question", questions, ""), ("answer", answers, "[SEP]")]:
        found = tokenizer([t + eos for t in listed], padding="longest", return_tensors="pt")
        given |= {f"{name}_ids": found.input_ids, f"{name}_mask": found.attention_mask}
    listed = {"answers": answers, "questions": questions, "eos": "[SEP]"}
    files = {"inputs.safetensors": given, "answers.json": listed}
    yield Fixture("vqa_rank", "vqa_rank", files, {"k": chance.randint(1, len(answers))}, "vqa")


def of_evaluation(inputs: Inputs):
    """Fixtures of attention maps and retrieval."""
    chance, text, vision, golden = inputs.chance, inputs.text, inputs.vision, inputs.golden
    layers = {("itm", n) for n in [text["fusion_layer"], text["layers"] - 1]}
    for mode, layer in [*sorted(layers), ("itc", chance.randrange(vision["depth"]))]:
        rows = chance.randint(1, 4)
        given = {**inputs.texts(rows), "image": inputs.image(rows)}
        params = {"mode": mode, "layer": layer}
        yield Fixture(f"gradcam_{mode}_{layer}", "gradcam", {"inputs.safetensors": given}, params, "retrieval")
    gallery, size, files, folder = [], vision["image_res"], [], golden.folder / "retrieval_eval"
    folder.mkdir(exist_ok=True)
    for i in range(chance.randint(10, 14)):
        captions = [inputs.sentence(14) for _ in range(chance.randint(1, 3))]
        gallery.append({"image": f"image{i:02}.png", "caption": captions})
        inputs.picture(size, size).save(folder / gallery[-1]["image"])
        files.append({"path": f"retrieval_eval/{gallery[-1]['image']}", "role": "input", "type": "png"})
    params = {"k_test": [chance.randint(1, 5), 10], "max_length": 30, "max_words": 30, "fill": -100.0}
    yield Fixture("retrieval_eval", "retrieval_eval", {"gallery.json": gallery}, params, "retrieval", files=files)


def model_files(inputs: Inputs) -> Fixture:
    tied = [
        [f"{root}.{own}", f"{root}.cls.predictions.decoder.{end}"]
        for root in ["text_encoder", "text_encoder_m"]
        for own, end in [("bert.embeddings.word_embeddings.weight", "weight"), ("cls.predictions.bias", "bias")]
    ]
    files = [{"path": f"model/model_{n}.pth", "role": "input", "type": "pth"} for n in ["zip", "legacy"]]
    return Fixture("model", "checkpoint", {}, {"root_key": "model", "tied": tied}, files=files)


def pos_embed(inputs: Inputs) -> Fixture:
    chance = inputs.chance
    cases = [{"index": i, "grid_from": chance.randint(1, 40), "grid_to": chance.randint(1, 40)} for i in range(6)]
    given = {f"table.{c['index']}": chance.normal(1, 1 + c["grid_from"] ** 2, chance.randint(1, 8)) for c in cases}
    return Fixture("pos_embed", "pos_embed", {"inputs.safetensors": given}, {"cases": cases})


def mlm_mask(inputs: Inputs) -> Fixture:
    chance = inputs.chance
    rows, width = chance.randint(2, 24), chance.randint(3, 20)
    ids = chance.below(inputs.text["vocab_size"], rows, width)  # special tokens anywhere
    ids = torch.where(chance.unit(rows, width) < 0.2, torch.tensor(chance.choice([*inputs.special.values()])), ids)
    cases, given = [{"index": i, "probability": p} for i, p in enumerate([0.15, 0.5, 1.0, 0.0])], {"input_ids": ids}
    for case in cases:
        given |= {f"case{case['index']}.{n}": t for n, t in inputs.masking(ids, 0.1).items()}
    return Fixture("mlm_mask", "mlm_mask", {"inputs.safetensors": given}, {"cases": cases})


def adamw(inputs: Inputs) -> Fixture:
    chance, cases, given = inputs.chance, [], {}
    for i in range(4):
        steps, shape = chance.randint(3, 12), [chance.randint(1, 5), chance.randint(1, 5)]
        case = {
            "case": i, "betas": [0.9, chance.choice([0.98, 0.999])], "eps": 1e-8, "steps": steps, "step_count": steps,
            "lr": chance.choice([1e-4, 1e-3, 0.03]), "weight_decay": chance.choice([0.0, 0.02, 0.1]),
        }  # fmt: skip
        if i == 1:
            case["lr_decay"] = 0.7
        if i == 2:
            case |= {"missing": [steps - 1, 1], "step_count": steps - 2}
        given[f"case{i}.param"] = chance.normal(*shape)
        scale = chance.choice([1e-3, 1, 30])
        given |= {f"case{i}.grad{n}": scale * chance.normal(*shape) for n in range(steps)}
        cases.append(case)
    return Fixture("adamw", "adamw", {"inputs.safetensors": given}, {"cases": cases})


def ema(inputs: Inputs) -> Fixture:
    chance, momenta, given = inputs.chance, enumerate([0.0, 0.9, 0.999]), {}
    cases = [{"case": i, "momentum": m, "steps": chance.randint(1, 6)} for i, m in momenta]
    for case in cases:
        names = ["average", *(f"value{n}" for n in range(case["steps"]))]
        given |= {f"case{case['case']}.{name}": chance.normal(3, 5) for name in names}
    return Fixture("ema", "ema", {"inputs.safetensors": given}, {"cases": cases})


def schedules(inputs: Inputs) -> Fixture:
    chance, plans, loops = inputs.chance, [], []
    for i in range(5):
        rate = chance.uniform(1e-5, 1e-3)
        plans.append({
            "config": f"random{i}", "optimizer": {"opt": "adamW", "lr": rate, "weight_decay": 0.02},
            "scheduler": {
                "sched": "cosine", "lr": rate, "epochs": chance.randint(1, 30), "min_lr": chance.choice([0.0, 1e-6]),
                "decay_rate": 1, "warmup_lr": chance.uniform(0, 2e-5), "warmup_epochs": chance.randint(0, 20),
                "cooldown_epochs": 0,
            },
        })  # fmt: skip
        loops.append({"config": f"random{i}", "epoch_step": chance.choice(["start", "end"])})
        loops[-1]["iterations_per_epoch"] = chance.randint(1, 500)
    return Fixture("schedules", "schedules", {"schedules.json": {"schedules": plans, "loops": loops}})


def param_groups(inputs: Inputs) -> Fixture:
    return Fixture("param_groups", "param_groups", {}, {"tasks": tasks(inputs.config)})


def checkpoint_keys(inputs: Inputs) -> Fixture:
    """Starts from pre-training at another resolution, and models of a task that are read again."""
    rules = {"pretrain": "none", "retrieval": "unprefix", "ve": "unprefix", "vqa": "vqa", "ta": "ta"}
    starts = [("pretrain", task, rules[task]) for task in tasks(inputs.config) if task in rules]
    starts += [("ta", "nlvr", "none"), *((task, task, "none") for task in tasks(inputs.config))]
    size, patch = inputs.vision["image_res"], inputs.vision["patch"]
    maps = [
        {"checkpoint": source, "task": task, "image_res": size + patch * (source != task), "rule": rule}
        for source, task, rule in starts
    ]
    parts = ["vision", "text", "embed_dim", "queue_size", "vqa", "nlvr"]
    files = {
        "key_map.json": {"sizes": {part: inputs.config[part] for part in parts}, "maps": maps},
        "listing.json": {"checkpoint": "pretrain", "parameter_counts": dict.fromkeys(tasks(inputs.config))},
        "other_families.json": {"official": {"pairs": []}},
    }
    return Fixture("checkpoint_keys", "checkpoint_keys", files, {})


def itm_eval(inputs: Inputs) -> Fixture:
    chance, cases = inputs.chance, []
    for _ in range(3):
        images = chance.randint(1, 14)
        of = [i for i in range(images) for _ in range(chance.randint(1, 4))]
        apart = lambda: [n / 128 for n in chance.sample(range(-images * len(of), images * len(of)), images * len(of))]
        scores = {"scores_i2t": apart(), "scores_t2i": apart()}
        cases.append({"n_image": images, "n_text": len(of), **scores, "txt2img": of})
    return Fixture("itm_eval", "itm_eval", {"cases.json": cases})


def box(chance: Chance, width: int, height: int) -> list[float]:
    x, y = chance.uniform(0, 0.7 * width), chance.uniform(0, 0.7 * height)
    return [round(v, 2) for v in [x, y, chance.uniform(0.1, 1) * (width - x), chance.uniform(0.1, 1) * (height - y)]]


def grounding_boxes(inputs: Inputs) -> Fixture:
    chance, refs = inputs.chance, []
    grid = chance.randint(2, 30)
    for i, split in enumerate(["val", "testA", "testB"] * chance.randint(1, 4)):
        width, height = chance.randint(20, 200), chance.randint(20, 200)
        truth = box(chance, width, height)
        near = [round(v * chance.uniform(0.9, 1.1), 2) for v in truth]
        boxes = [near, *(box(chance, width, height) for _ in range(chance.randint(1, 5)))]
        refs.append({"ref_id": i, "image_id": 1000 + i, "height": height, "width": width, "split": split})
        refs[-1] |= {"gt_box": truth, "det_boxes": chance.sample(boxes, len(boxes))}
    pairs = [{"a": box(chance, 60, 60), "b": box(chance, 60, 60)} for _ in range(12)]
    given = {"alpha": chance.choice([0.25, 0.5, 0.75]), "mask_size": grid, "refs": refs, "iou_cases": pairs}
    files = {"inputs.safetensors": {"maps": chance.unit(len(refs), grid, grid)}, "cases.json": given}
    return Fixture("grounding_boxes", "grounding_boxes", files, {"alpha": given["alpha"], "mask_size": grid})


def vqa_score(inputs: Inputs) -> Fixture:
    chance, cases = inputs.chance, []
    answer = lambda: chance.choice([
        inputs.sentence(2), chance.choice("yes no two 2 red none 10 1,000 3.5 a.m. dont isnt Id've the a".split()),
        f"the {chance.choice(inputs.words)}", f"{chance.randint(0, 12)},{chance.randint(0, 999)}",
    ])  # fmt: skip
    for i in range(30):
        few = [answer() for _ in range(chance.randint(1, 4))]
        truth = [chance.choice(few) for _ in range(10)]
        types = {"question_type": chance.choice(["what", "is the"]), "answer_type": chance.choice(["other", "number"])}
        cases.append({"question_id": i, "answer": chance.choice([*few, answer()]), "ground_truth": truth, **types})
    given = {"processing": [{"text": answer()} for _ in range(60)], "cases": cases}
    return Fixture("vqa_score", "vqa_score", {"cases.json": given})


def tokenizer(inputs: Inputs) -> Fixture:
    golden = inputs.golden
    variants = {
        "pretrain": {"padding": "longest", "truncation": True, "max_length": 25},
        "retrieval_train": {"padding": "longest", "max_length": 30},
        "retrieval_eval": {"padding": "max_length", "truncation": True, "max_length": 30},
        "vqa_answer": {"padding": "longest"},
    }
    cases = [{"text": inputs.sentence(12, wild=0.3)} for _ in range(80)]
    batches = [
        {"variant": name, "options": options, "texts": [inputs.sentence(40, wild=0.2) for _ in range(3)]}
        for name, options in variants.items()
    ]
    params = {"vocab_full": golden.vocabulary["full"], "vocab_tiny": golden.vocabulary["tiny"], "variants": variants}
    return Fixture("tokenizer", "tokenizer", {"cases.json": cases, "batches.json": batches}, params)


def cleaning(inputs: Inputs) -> Fixture:
    chance = inputs.chance
    blanks = lambda text: text.replace(" ", chance.choice([" ", " ", "  ", "\n", "\t", " \u2003"]))
    cases = [{"text": blanks(inputs.sentence(chance.choice([8, 60]), wild=0.2))} for _ in range(60)]
    return Fixture("cleaning", "cleaning", {"cases.json": cases})


def images(inputs: Inputs) -> Fixture:
    chance, folder, cases, files = inputs.chance, inputs.golden.folder, [], []
    (folder / "images").mkdir(exist_ok=True)
    for mode in ["RGB", "RGB", "RGB", "L", "P", "RGBA", "LA", "1"]:
        width, height = (chance.choice([chance.randint(1, 40), chance.randint(40, 300)]) for _ in range(2))
        name, sides = f"images/{len(cases)}_{mode.lower()}.png", [chance.randint(1, 300) for _ in range(3)]
        inputs.picture(width, height, mode).save(folder / name)
        files.append({"path": name, "role": "input", "type": "png"})
        cases.append({"file": name, "lossy": False, "resized": [{"size": n} for n in sides]})
        cases[-1]["normalised_tensor"] = Path(name).name
    return Fixture("images", "images", {"cases.json": cases}, {}, files=files)


def crop(inputs: Inputs) -> Fixture:
    """Of the pictures of `images`."""
    chance, folder, crops, boxes = inputs.chance, inputs.golden.folder, [], []
    for file in sorted((folder / "images").glob("*.png")):
        with Image.open(file) as image:
            top, left = chance.randrange(image.height), chance.randrange(image.width)
            height, width = chance.randint(1, image.height - top), chance.randint(1, image.width - left)
        crops.append({"file": f"images/{file.name}", "top": top, "left": left, "height": height, "width": width})
        crops[-1] |= {"flip": chance.random() < 0.5, "size": chance.randint(1, 120)}
    for _ in range(30):
        size = {"width": chance.randint(2, 500), "height": chance.randint(2, 500)}
        boxes.append({**size, "scale": chance.choice([[0.2, 1.0], [0.5, 1.0], [0.9, 1.0]]), "ratio": [3 / 4, 4 / 3]})
    return Fixture("crop", "crop", {"cases.json": {"crops": crops, "boxes": boxes}})


def randaugment(inputs: Inputs) -> Fixture:
    chance, given, cases, sequences, strips = inputs.chance, {}, [], [], [0, 0]
    trained = "Identity AutoContrast Equalize Brightness Sharpness ShearX ShearY TranslateX TranslateY Rotate".split()
    signed = re.compile("Shear|Translate|Rotate")
    for i in range(2):
        size = (chance.randint(8, 90), chance.randint(8, 90))
        given[f"image{i}.png"] = torch.from_numpy(np.array(inputs.picture(*size)))
    for op in [*trained, "Solarize", "Color", "Contrast", "Posterize"]:
        for i in range(2):
            levels = range(11) if op not in ["Identity", "AutoContrast", "Equalize"] else [7]
            rows = [{"level": n, "draw": d} for n in levels for d in ([0.25, 0.75] if signed.match(op) else [None])]
            cases.append({"op": op, "image": i, "strip": f"{op}_{i}.png", "official": op in trained, "rows": rows})
    for _ in range(30):
        i = chance.randrange(2)
        ops, draws = [chance.choice(trained) for _ in range(2)], [round(chance.random(), 4) for _ in range(4)]
        sequences.append({"image": i, "row": strips[i], "ops": ops, "draws": draws})
        strips[i] += 1
    given["cases.json"] = {"n": 2, "m": 7, "augs": trained, "cases": cases, "sequences": sequences}
    return Fixture("randaugment", "randaugment", given, {})


def fixtures(inputs: Inputs):
    """All that the sizes of the set allow."""
    yield from of_encoders(inputs)
    yield from of_steps(inputs)
    if "vqa" in tasks(inputs.config):
        yield from of_answers(inputs)
    yield from of_evaluation(inputs)
    for draw in [model_files, pos_embed, mlm_mask, adamw, ema, schedules, param_groups, checkpoint_keys]:
        yield draw(inputs)
    for draw in [itm_eval, grounding_boxes, vqa_score, tokenizer, cleaning, images, crop, randaugment]:
        yield draw(inputs)

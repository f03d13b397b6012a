"""Kinds of fixtures that need no weights: text, pixels, scores, schedules, optimizer."""

import hashlib
import random
import types

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import official
from fixtures import EXACT, Fixture, Golden, kind
from model_kinds import optimizer_of, transform, transforms


def pixels(image) -> Tensor:
    return torch.from_numpy(np.array(image))


def sha256(image) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


@kind(EXACT)
def checkpoint(golden: Golden, fixture: Fixture) -> dict:
    """one state dict as safetensors and in the two .pth layouts under "model"; all tensors equal, ties included."""
    zipped, legacy = (
        torch.load(golden.folder / f"model/model_{n}.pth", weights_only=False)["model"] for n in ["zip", "legacy"]
    )
    if list(zipped) != list(legacy) or not all(torch.equal(zipped[n], legacy[n]) for n in zipped):
        raise ValueError(f"{golden.folder}: the two .pth files differ")
    return {"model.safetensors": zipped}


@kind({"mode": "elementwise", "abs": 2e-6, "rel": 1e-5})
def pos_embed(golden: Golden, fixture: Fixture) -> dict:
    """interpolate_pos_embed on stand-alone tables [1, 1+grid*grid, width]."""
    out = {}
    for case in fixture.params["cases"]:
        name, cells = f"table.{case['index']}", case["grid_to"] ** 2
        table = fixture.inputs[name]
        encoder = types.SimpleNamespace(
            patch_embed=types.SimpleNamespace(num_patches=cells), pos_embed=torch.zeros(1, 1 + cells, table.shape[-1])
        )
        out[name] = official.module("models.vit").interpolate_pos_embed(table, encoder)
    return {"expected.safetensors": out}


@kind(EXACT)
def mlm_mask(golden: Golden, fixture: Fixture) -> dict:
    """the masking function with its draws given; labels -100 where not chosen."""
    albef = types.SimpleNamespace(tokenizer=official.token_ids(golden.config))
    ids, out = fixture.inputs["input_ids"], {}
    mask, words = official.module("models.model_pretrain").ALBEF.mask, golden.config["text"]["vocab_size"]
    for case in fixture.params["cases"]:
        name = f"case{case['index']}"
        uniform = [fixture.inputs[f"{name}.{n}"] for n in ["u_mask", "u_replace", "u_random"]]
        drawn = official.Draws(uniform=uniform, integers=[fixture.inputs[f"{name}.random_words"]])
        chance = torch.full(ids.shape, case["probability"])
        with drawn.replaced():
            masked, labels = mask(albef, ids.clone(), words, "cpu", targets=ids.clone(), probability_matrix=chance)
        out |= {f"{name}.input_ids": masked, f"{name}.labels": labels}
    return {"expected.safetensors": out}


@kind({"mode": "elementwise", "abs": 3e-6, "rel": 2e-6})
def adamw(golden: Golden, fixture: Fixture) -> dict:
    """decoupled-decay Adam on one parameter: parameter after every step, moments at the end."""
    out = {}
    for case in fixture.params["cases"]:
        name = f"case{case['case']}"
        p = nn.Parameter(fixture.inputs[f"{name}.param"].clone())
        options = {"lr": case["lr"], "betas": case["betas"], "eps": case["eps"], "weight_decay": case["weight_decay"]}
        optimizer = torch.optim.AdamW([p], **options)
        for i in range(case["steps"]):
            p.grad = None if i in case.get("missing", []) else fixture.inputs[f"{name}.grad{i}"]
            optimizer.step()
            out[f"{name}.param{i}"] = p.detach().clone()
            optimizer.param_groups[0]["lr"] *= case.get("lr_decay", 1)
        out |= {f"{name}.{moment}": optimizer.state[p][moment] for moment in ["exp_avg", "exp_avg_sq"]}
    return {"expected.safetensors": out}


@kind({"mode": "elementwise", "abs": 1e-7, "rel": 1e-6})
def ema(golden: Golden, fixture: Fixture) -> dict:
    """exponential moving average of parameters: average * m + value * (1 - m)."""
    out, update = {}, official.module("models.model_pretrain").ALBEF._momentum_update
    for case in fixture.params["cases"]:
        name = f"case{case['case']}"
        average = nn.ParameterList([fixture.inputs[f"{name}.average"]])
        for i in range(case["steps"]):
            value = nn.ParameterList([fixture.inputs[f"{name}.value{i}"]])
            update(types.SimpleNamespace(model_pairs=[[value, average]], momentum=case["momentum"]))
            out[f"{name}.average{i}"] = average[0].detach().clone()
    return {"expected.safetensors": out}


def rates(plan: dict, loop: dict) -> list:
    """When the rate of a training loop changes, [iteration, rate] per epoch; the scheduler is stepped as in `train`."""
    optimizer, scheduler = optimizer_of(nn.Linear(1, 1), plan)
    warmup, out = plan["scheduler"]["warmup_epochs"], []
    for epoch in range(plan["scheduler"]["epochs"]):
        if epoch > 0 and loop["epoch_step"] == "start":
            scheduler.step(epoch + warmup)
        out.append([])
        for i in range(loop["iterations_per_epoch"]):
            rate = optimizer.param_groups[0]["lr"]
            if not out[-1] or out[-1][-1][1] != rate:
                out[-1].append([i, rate])
            if epoch == 0 and i % 100 == 0 and i <= warmup * 100:
                scheduler.step(i // 100)
        if loop["epoch_step"] == "end":
            scheduler.step(epoch + warmup + 1)
    return out


@kind({"mode": "elementwise", "abs": 0, "rel": 1e-12})
def schedules(golden: Golden, fixture: Fixture) -> dict:
    """learning rates of the cosine schedule, and where those of a training loop change."""
    given, by_name, out = fixture.given["schedules.json"], {}, []
    for plan in given["schedules"]:
        by_name[plan["config"]] = plan
        optimizer, scheduler = optimizer_of(nn.Linear(1, 1), plan)
        epochs, warmup = plan["scheduler"]["epochs"], plan["scheduler"]["warmup_epochs"]

        def after(step):
            scheduler.step(step)
            return optimizer.param_groups[0]["lr"]

        out.append({
            **{n: plan[n] for n in ["config", "optimizer", "scheduler"]}, "num_epochs": epochs,
            "lr_before_any_step": optimizer.param_groups[0]["lr"],
            "lr_after_warmup_step": [after(i) for i in range(warmup + 1)],
            "lr_of_epoch_step": [after(warmup + e) for e in range(epochs + 3)],
        })  # fmt: skip
    loops = [{**loop, "lr_changes": rates(by_name[loop["config"]], loop)} for loop in given["loops"]]
    return {"schedules.json": {"schedules": out, "loops": loops}}


@kind(EXACT)
def param_groups(golden: Golden, fixture: Fixture) -> dict:
    """the two parameter groups of the optimizer for each task model in their order."""
    out, split = {}, official.module("optim.optim_factory").add_weight_decay
    for task in fixture.params["tasks"] if fixture.params else official.TASKS:
        model = official.build(golden.config, task)
        names = {id(p): name for name, p in model.named_parameters()}
        groups = [[names[id(p)] for p in group["params"]] for group in split(model)]
        out[task] = dict(zip(["no_decay", "decay"], groups))
    return {"groups.json": out}


def keys(config: dict, task: str, image_res: int | None = None) -> dict[str, Tensor]:
    """The state dict of a task's model, without values."""
    with torch.device("meta"), official.replaced(torch, linspace=lambda low, high, n: torch.zeros(n, device="cpu")):
        return official.build(config, task, image_res=image_res).state_dict(keep_vars=True)


def started(config: dict, start: dict) -> dict:
    """What becomes of every key of a checkpoint, in the order in which the official scripts rename and tell them."""
    task, rule = start["task"], {"none": "pretrain", "unprefix": "retrieval"}.get(start["rule"], start["rule"])
    target = keys(config, task, start["image_res"])
    source = target if task == start["checkpoint"] else keys(config, start["checkpoint"])
    names = {key: official.renamed(key, rule, config["text"]["fusion_layer"]) for key in source}
    order = {key: key for key in source if names[key] == [key]}
    order |= {name: key for key in source for name in names[key]}
    told = lambda name: name if order[name] == name else {"key": name, "source": order[name]}
    known = {key: [name for name in found if name in target] for key, found in names.items()}
    out = {
        "renamed": {key: found for key, found in known.items() if found and found != [key]},
        "resized": [
            {"key": key, "source_shape": list(t.shape), "target_shape": list(target[key].shape)}
            for key, t in source.items() if key.endswith("pos_embed") and key in target and t.shape != target[key].shape
        ],
        "unexpected": [told(name) for name in order if name not in target], "dropped": [], "mismatched": [],
        "missing": [name for name in target if name not in order],
    }  # fmt: skip
    unchanged = sum(found == [key] for key, found in known.items())
    return {"counts": {"unchanged": unchanged, **{name: len(found) for name, found in out.items()}}, **out}


@kind(EXACT)
def checkpoint_keys(golden: Golden, fixture: Fixture) -> dict:
    """what becomes of every key of a checkpoint that the script of a task loads; every key with its shape."""
    given, listing = fixture.given["key_map.json"], fixture.given["listing.json"]
    parts = {part: {**golden.config[part], **given["sizes"][part]} for part in ["vision", "text"]}
    config = {**golden.config, **given["sizes"], **parts}
    maps = [
        {**start, **started(config, start)} if {start["checkpoint"], start["task"]} <= set(official.TASKS) else start
        for start in given["maps"]
    ]
    counts = {}
    for task in listing["parameter_counts"]:
        state = keys(config, task, None if task in ["pretrain", "ta"] else 384)
        values = {id(p): p.numel() for p in state.values() if isinstance(p, nn.Parameter)}
        trained = {id(p): p.numel() for p in state.values() if p.requires_grad}
        counts[task] = {"trained": sum(trained.values()), "all": sum(values.values()), "keys": len(state)}
    tensors = [
        {"key": key, "shape": list(t.shape), "dtype": str(t.dtype).removeprefix("torch.")}
        for key, t in keys(config, "pretrain").items()
    ]
    listing = {**listing, "tensors": tensors, "parameter_counts": counts}
    families = fixture.given["other_families.json"]  # which have code of their own
    return {"key_map.json": {**given, "maps": maps}, "listing.json": listing, "other_families.json": families}


@kind({"mode": "elementwise", "abs": 1e-9, "rel": 1e-12})
def itm_eval(golden: Golden, fixture: Fixture) -> dict:
    """recall metrics from given score matrices (row-major)."""
    out = []
    for case in fixture.given["cases.json"]:
        images, texts, of = case["n_image"], case["n_text"], case["txt2img"]
        i2t = np.array(case["scores_i2t"], dtype=np.float32).reshape(images, texts)
        t2i = np.array(case["scores_t2i"], dtype=np.float32).reshape(texts, images)
        img2txt = [[t for t in range(texts) if of[t] == i] for i in range(images)]
        out.append({**case, "expected": official.module("Retrieval").itm_eval(i2t, t2i, of, img2txt)})
    return {"cases.json": out}


@kind({"mode": "elementwise", "abs": 1e-5, "rel": 1e-4, "exact": ["chosen", "correct", "accuracy"]})
def grounding_boxes(golden: Golden, fixture: Fixture) -> dict:
    """maps enlarged to the image, scores of boxes, the best one, IoU, accuracy per split."""
    given, utils = fixture.given["cases.json"], official.module("dataset.utils")
    maps, alpha, refs = fixture.inputs["maps"], given["alpha"], []
    for ref, cells in zip(given["refs"], maps):
        large = F.interpolate(cells[None, None], size=(ref["height"], ref["width"]), mode="bicubic")[0, 0]
        scores = [
            (large[int(y) : int(y + h), int(x) : int(x + w)].sum() / (w * h) ** alpha).item()
            for x, y, w, h in ref["det_boxes"]
        ]
        chosen = int(np.argmax(scores))
        iou = utils.computeIoU(ref["gt_box"], ref["det_boxes"][chosen])
        found = {"scores": scores, "chosen": chosen, "box": ref["det_boxes"][chosen], "iou": iou, "correct": iou >= 0.5}
        refs.append({**ref, "expected": found})
    refer = types.SimpleNamespace(
        Refs={i: ref for i, ref in enumerate(refs)}, Imgs={ref["image_id"]: ref for ref in refs},
        refToAnn={i: {"bbox": ref["gt_box"]} for i, ref in enumerate(refs)},
    )  # fmt: skip
    results = [{"ref_id": i, "pred": cells} for i, cells in enumerate(maps)]
    boxes = {str(ref["image_id"]): ref["det_boxes"] for ref in refs}
    with official.replaced(torch.Tensor, cuda=lambda tensor: tensor):
        accuracy = utils.grounding_eval(results, boxes, None, refer, alpha, given["mask_size"])
    hits = {s: [r["expected"]["correct"] for r in refs if r["split"] == s] for s in ["val", "testA", "testB"]}
    if accuracy != {f"{split}_d": sum(found) / len(found) for split, found in hits.items()}:
        raise ValueError(f"{golden.folder}: boxes chosen here are not those of the official code")
    ious = [{**case, "expected": utils.computeIoU(case["a"], case["b"])} for case in given["iou_cases"]]
    return {"cases.json": {**given, "refs": refs, "accuracy": accuracy, "iou_cases": ious}}


def evaluated(cases: list[dict]):
    """The official evaluation of answers."""
    answers = lambda case: [{"answer": a, "answer_id": i} for i, a in enumerate(case["ground_truth"])]
    kinds = lambda case: {n: case[n] for n in ["question_type", "answer_type"]}
    truth = {i: {"answers": answers(case), **kinds(case)} for i, case in enumerate(cases)}
    given = {i: {"answer": case["answer"]} for i, case in enumerate(cases)}
    questions = types.SimpleNamespace(qa=truth, getQuesIds=lambda: list(truth))
    found = official.module("vqaTools.vqaEval").VQAEval(questions, types.SimpleNamespace(qa=given))
    found.updateProgress = lambda progress: None
    if cases:
        found.evaluate()
    return found


@kind({"mode": "elementwise", "abs": 0.005, "rel": 0, "exact": ["processing"]})
def vqa_score(golden: Golden, fixture: Fixture) -> dict:
    """answer processing and soft accuracy; accuracy_v2 processes both sides, as the challenge does now."""
    given, tool = fixture.given["cases.json"], evaluated([])
    clean = lambda t: t.replace("\n", " ").replace("\t", " ").strip()
    processed = lambda t: tool.processDigitArticle(tool.processPunctuation(clean(t)))
    step = lambda t: {"punctuation": tool.processPunctuation(clean(t)), "digit_article": processed(t)}
    steps = [{"text": p["text"], **step(p["text"])} for p in given["processing"]]

    def challenge(case):
        answer, truth = clean(case["answer"]), [clean(t) for t in case["ground_truth"]]
        if len(set(truth)) > 1:
            answer, truth = processed(answer), [processed(t) for t in truth]
        matches = [sum(t == answer for j, t in enumerate(truth) if j != i) for i in range(len(truth))]
        return sum(min(1, n / 3) for n in matches) / len(truth)

    together, second = evaluated(given["cases"]), [challenge(case) for case in given["cases"]]
    cases = [
        {**case, "accuracy": together.evalQA[i], "overall": evaluated([case]).accuracy["overall"],
         "accuracy_v2": round(100 * second[i], 2)}
        for i, case in enumerate(given["cases"])
    ]  # fmt: skip
    overall = round(100 * sum(second) / len(second), 2)
    return {"cases.json": {"processing": steps, "cases": cases, "totals": together.accuracy, "overall_v2": overall}}


@kind(EXACT)
def tokenizer(golden: Golden, fixture: Fixture) -> dict:
    """text -> token ids with the full word list and with the tiny one; padding and truncation of the tasks."""
    full, tiny = golden.tokenizer("full"), golden.tokenizer("tiny")
    encode = lambda of, text: of(text).input_ids
    cases = [
        {"text": c["text"], "ids": encode(full, c["text"]), "ids_tiny": encode(tiny, c["text"])}
        for c in fixture.given["cases.json"]
    ]
    batches = [
        {**b, **{n: full(b["texts"], **b["options"])[n] for n in ["input_ids", "attention_mask"]}}
        for b in fixture.given["batches.json"]
    ]
    return {"cases.json": cases, "batches.json": batches}


@kind(EXACT)
def cleaning(golden: Golden, fixture: Fixture) -> dict:
    """pre_caption with 30, 50 and 8 words and pre_question with 30 and 50 words."""
    utils, out = official.module("dataset.utils"), []
    for case in fixture.given["cases.json"]:
        captions = {f"caption_{n}": utils.pre_caption(case["text"], n) for n in [30, 50, 8]}
        questions = {f"question_{n}": utils.pre_question(case["text"], n) for n in [30, 50]}
        out.append({"text": case["text"], **captions, **questions})
    return {"cases.json": out}


@kind({**EXACT, "normalised": {"mode": "elementwise", "abs": 1e-6, "rel": 1e-6}})
def images(golden: Golden, fixture: Fixture) -> dict:
    """test transform: sha256 of the RGB bytes as decoded and as resized, normalized tensors."""
    out, tensors, small = [], {}, {}
    for case in fixture.given["cases.json"]:
        stored = Image.open(golden.folder / case["file"])
        found = {"stored_mode": stored.mode, "width": stored.width, "height": stored.height}
        rgb = stored.convert("RGB")
        resized = [(entry, transform(entry["size"]).transforms[0](rgb)) for entry in case["resized"]]
        found["resized"] = [{**entry, "sha256": sha256(image)} for entry, image in resized]
        small |= {entry["png"].split("/", 1)[1]: pixels(image) for entry, image in resized if "png" in entry}
        if "lossy_tolerance" not in case:
            found["decoded_rgb_sha256"] = sha256(rgb)
        if "normalised_tensor" in case:
            tensors[case["normalised_tensor"]] = transform(case["resized"][0]["size"])(rgb)
        out.append({**case, **found})
    return {"cases.json": out, "normalised.safetensors": tensors, **small}


@kind(EXACT)
def crop(golden: Golden, fixture: Fixture) -> dict:
    """boxes cut out, resized and mirrored; boxes of a random resized crop from recorded draws."""
    import torchvision.transforms.functional as functional

    crops, boxes, small = [], [], {}
    for case in fixture.given["cases.json"]["crops"]:
        rgb, box = Image.open(golden.folder / case["file"]).convert("RGB"), ["top", "left", "height", "width"]
        size, mode = [case["size"]] * 2, functional.InterpolationMode.BICUBIC
        cut = functional.resized_crop(rgb, *(case[n] for n in box), size, mode)
        cut = functional.hflip(cut) if case["flip"] else cut
        small |= {case["png"].split("/", 1)[1]: pixels(cut)} if "png" in case else {}
        crops.append({**case, "sha256": sha256(cut)})
    for i, case in enumerate(fixture.given["cases.json"]["boxes"]):
        known, chance, draws = [d["value"] for d in case.get("draws", [])], random.Random(i), []

        def value(name, low, high, draw):
            draws.append({name: [float(low), float(high)] if name == "uniform" else [low, high]})
            number = known[len(draws) - 1] if known else draw
            draws[-1]["value"] = torch.tensor(number).item()  # in single precision, if it is a float
            return torch.tensor([number])

        uniform = lambda tensor, low, high: value("uniform", low, high, chance.uniform(low, high))
        randint = lambda low, high, size: value("randint", low, high, chance.randrange(low, high))
        blank = Image.new("RGB", (case["width"], case["height"]))
        with official.replaced(torch, randint=randint), official.replaced(torch.Tensor, uniform_=uniform):
            box = transforms(8)[0].transforms[0].get_params(blank, case["scale"], case["ratio"])
        boxes.append({**case, "draws": draws, "expected": [int(n) for n in box]})
    return {"cases.json": {"crops": crops, "boxes": boxes}, **small}


@kind(EXACT)
def randaugment(golden: Golden, fixture: Fixture) -> dict:
    """each operation at each level on two images, stacked; sequences as in training, from their draws."""
    given, module = fixture.given["cases.json"], official.module("dataset.randaugment")
    source, cases = [fixture.given[f"image{i}.png"].numpy() for i in range(2)], []
    strips: dict[str, list] = {}

    def applied(image, op, row):
        with official.replaced(np.random, random=lambda: row["draw"]):
            args = module.arg_dict[op](row["level"])
        return module.func_dict[op](image, *args), args

    for case in given["cases"]:
        # As intended, the lowest value is negated as a number, not as a byte.
        image = source[case["image"]].astype(np.int32) if "variant" in case else source[case["image"]]
        found = [applied(image, case["op"], row) for row in case["rows"]]
        strips[case["strip"]] = [image for image, _ in found]
        plain = lambda args: [list(a) if isinstance(a, tuple) else float(a) for a in args]
        rows = [{**row, "args": plain(args)} for row, (_, args) in zip(case["rows"], found)]
        cases.append({**case, "rows": rows})
    for case in given["sequences"]:
        draws = iter(case["draws"])
        augment = module.RandomAugment(given["n"], given["m"], isPIL=True, augs=given["augs"])
        augment.get_random_ops = lambda: [(op, 0.5, given["m"]) for op in case["ops"]]
        with official.replaced(np.random, random=lambda: next(draws)):
            strips.setdefault(f"sequence_{case['image']}.png", []).append(augment(source[case["image"]]))
    stacked = {name: torch.from_numpy(np.concatenate(images)) for name, images in strips.items()}
    return {"cases.json": {**given, "cases": cases}, **stacked}

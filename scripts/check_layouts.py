#!/usr/bin/env python3
"""Full-size checkpoints of every published layout, with random weights: `albef` against the original code.

    pip install torch torchvision transformers==4.25.1 "numpy<2" "pillow<13" opencv-python-headless omegaconf
    pip install pandas iopath && pip install --no-deps timm==0.4.12
    python scripts/check_layouts.py --official ALBEF --lavis LAVIS --torchmultimodal multimodal \\
        --vocab vocab.txt --albef target/release/albef official-vqa lavis-vqa

ALBEF, LAVIS and multimodal are checkouts of salesforce/ALBEF, salesforce/LAVIS and facebookresearch/multimodal, which
are imported and not changed; `vocab.txt` is that of bert-base-uncased. For each layout (by default all whose
repository is given) the original model class is built, filled with random weights (momentum copies with others), and
saved as its project saves it. Its own preprocessing and evaluation compute the outputs for two PNG images and two
texts, `albef` does the same from the file, and a row of a Markdown table is printed: the largest absolute difference
of each quantity; of one query by either program, in turns, the median time (that of the processor) and the peak of
resident memory; and the median time of `torch.load` and `load_state_dict`. The file is deleted afterwards. Exit code
0 if all differences are within --tolerance, 1 if not.
"""

import argparse
import contextlib
import importlib
import json
import math
import os
import pathlib
import random
import re
import statistics
import subprocess
import sys
import time
import types

if "--child" in sys.argv:  # the parent needs neither
    import torch
    from PIL import Image

CAPTIONS = [
    "Two dogs - one black-and-white, one brown - don't chase the café's (old) ball;  it's too far",
    "A very long caption: " + "the quick brown fox jumps over the lazy dog, " * 5 + "and nobody ever reads its end.",
]
QUESTIONS = [
    "How many dogs - or cats - are there, and what's on the man's T-shirt (left)?",
    "If you look at the left half of the image, past the old wooden fence, and then a little further up the hill, "
    "what kind of animal is standing there, if there is any at all?",
]
ANSWERS = "yes,no,2,red,brown horse,on the beach,don't know,playing frisbee,café,black and white,kite,5:30".split(",")
RERANK = 8  # of the answers
LABELS = ["a dog", "a red horse"]
CLASSES = ["contradiction", "neutral", "entailment"]
LAYOUTS = {
    "official-pretrain": "pretrain", "official-retrieval": "retrieval", "official-grounding": "grounding",
    "official-vqa": "vqa", "official-ve": "ve", "official-nlvr-ta": "nlvr-ta", "official-nlvr": "nlvr",
    "lavis-pretrain": "pretrain", "lavis-coco": "retrieval", "lavis-flickr": "retrieval", "lavis-vqa": "vqa",
    "lavis-ve": "ve", "lavis-nlvr": "nlvr",
    "torchmultimodal-retrieval": "retrieval", "torchmultimodal-vqa": "vqa",
}  # fmt: skip

def stub(name: str, **attributes) -> None:
    """A module that holds the attributes alone; with a `__path__`, a package that does not run its `__init__`."""
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(attributes)
    parent, _, last = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], last, sys.modules[name])


def offline(vocab: str) -> None:
    """BERT from its configuration instead of a download, and the tokenizer from a file."""
    from transformers import BertTokenizer
    from transformers.modeling_utils import PreTrainedModel

    PreTrainedModel.from_pretrained = classmethod(lambda cls, *a, config, **other: cls(config, **other))
    BertTokenizer.from_pretrained = classmethod(lambda cls, *a, **other: cls(vocab))


# Queries: arguments of `albef` with what the original computed, by quantity and item.
def embed(images, texts, features):
    texts = [argument for text in texts for argument in ["--text", text]]
    values = {f"{i}.{j}": x for i, feature in enumerate(features) for j, x in enumerate(feature.tolist())}
    return ["embed", os.path.dirname(images[0]), *texts], {"feature": values}


def ask(image, question, probabilities):
    few = ["--answers", os.path.abspath("answers.json"), "--top-k", str(RERANK), "--rerank-k", str(RERANK)]
    return ["ask", image, question, *few], {"answer probability": probabilities}


def entail(images, texts, logits):
    rows = [dict(zip(CLASSES, row)) for row in logits.softmax(-1).tolist()]
    return [(["entail", i, t], {"class probability": row}) for i, t, row in zip(images, texts, rows)]


def reason(images, texts, logits):
    rows = zip(images, images[1:] + images[:1], texts, logits.softmax(-1)[:, 1].tolist())
    return [(["reason", i, j, t], {"truth probability": {"true": p}}) for i, j, t, p in rows]


def relative(grid: list[float]) -> dict[str, float]:
    """The cells of a map in parts of its peak."""
    return {str(i): x / max(grid) for i, x in enumerate(grid)}


class Loader(list):
    """Batches, with names and texts where the evaluation of an original looks for them."""

    def __init__(self, batches, images, texts):
        super().__init__(batches)
        self.dataset = types.SimpleNamespace(image=images, text=texts)


def evaluated(evaluation, part, images: int, adds_cosine: bool = False):
    """Features, cosines, logits and probabilities `[image, text]` of an evaluation that re-ranks everything."""
    seen = {name: [] for name in ["vision_proj", "text_proj", "itm_head"]}
    keep = lambda outputs: lambda module, given, output: outputs.append(output.detach())
    hooks = [part(name).register_forward_hook(keep(outputs)) for name, outputs in seen.items()]
    scores = torch.as_tensor(evaluation()[0])  # logits of a match; modules of the model returned the rest meanwhile
    for hook in hooks:
        hook.remove()
    image, text = (torch.nn.functional.normalize(torch.cat(seen[n]), dim=-1) for n in ["vision_proj", "text_proj"])
    cosines = image @ text.T
    logits = scores - cosines if adds_cosine else scores
    rows = torch.stack(seen["itm_head"][:images])  # a call for each image, with its texts in order of cosine
    order = (rows[:, None, :, 1] - logits[:, :, None]).abs().argmin(-1)
    return [*image, *text], cosines, logits, rows.softmax(-1)[..., 1].gather(1, order)


def match(images, texts, features, cosines, logits, probabilities):
    each = lambda values, j: {str(i): x for i, x in enumerate(values[:, j].tolist())}
    return [
        (["match", *images, text], {
            "cosine": each(cosines, j), "ITM logit": each(logits, j), "match probability": each(probabilities, j),
        })
        for j, text in enumerate(texts)
    ] + [embed(images, texts, features)]


# Originals: each builds a model, says what its project saves, and asks it.
class Official:
    def __init__(self, root: pathlib.Path, vocab: str):
        from transformers import file_utils

        offline(vocab)
        file_utils.add_code_sample_docstrings = lambda *a, **other: lambda function: function  # has other arguments now
        sys.path.insert(0, str(root))
        tools = ["refTools", "refTools.evaluation", "refTools.evaluation.refEvaluation", "refTools.refer_python3"]
        unused = ["RefEvaluation", "REFER", "VQAEval", "create_scheduler", "create_optimizer"]
        for name in ["ruamel_yaml", "scheduler", "optim", "vqaTools", "vqaTools.vqaEval", *tools]:
            stub(name, **dict.fromkeys(unused))
        self.root, self.tokenizer = root, importlib.import_module("models.tokenization_bert").BertTokenizer(vocab)
        self.tokenizer.sanitize_special_tokens()  # so that `[SEP]` in a text is one token, as after a download

    def build(self, task: str):
        self.size = 256 if task in ["pretrain", "nlvr-ta"] else 384
        config = {
            "bert_config": self.root / "configs/config_bert.json", "image_res": self.size, "vision_width": 768,
            "embed_dim": 256, "temp": 0.07, "queue_size": 65536, "momentum": 0.995, "distill": True,
            "mlm_probability": 0.15,
        }  # fmt: skip
        more = {"vqa": {"text_decoder": "bert"}, "pretrain": {"init_deit": False}}.get(task, {})
        module = {"nlvr-ta": "pretrain_nlvr", "grounding": "retrieval"}.get(task, task)
        model = importlib.import_module(f"models.model_{module}").ALBEF
        return model(config=config, text_encoder="bert", tokenizer=self.tokenizer, **more)

    def saved(self, task: str, model):
        state = model.state_dict()
        if task in ["retrieval", "grounding"]:  # the published files: flat, without momentum and queues
            training = re.compile(r"\w+_m\.|\w+_queue|queue_ptr")
            return {name: tensor for name, tensor in state.items() if not training.match(name)}
        return {"model": state, "epoch": 9}

    def queries(self, task, model, images, texts):
        from dataset import create_dataset
        from dataset.utils import pre_caption, pre_question

        entries = [{"image": i, "image_id": i, "caption": [t]} for i, t in zip(images, texts)]
        pathlib.Path("list.json").write_text(json.dumps(entries))
        files = {"train_file": ["list.json"], "val_file": "list.json", "test_file": "list.json"}
        test = create_dataset("re", {"image_res": self.size, "image_root": "", **files})[2]
        pixels = torch.stack([test[i][0] for i in range(len(images))])
        clean = [pre_question(t, 50) if task == "vqa" else pre_caption(t, 30) for t in texts]
        words = self.tokenizer(clean, padding="longest", return_tensors="pt")
        if task == "vqa":
            answers = self.tokenizer([a + "[SEP]" for a in ANSWERS], padding="longest", return_tensors="pt")
            ids, p = model(pixels, words, answers, train=False, k=RERANK)
            found = [dict(zip([ANSWERS[a] for a in row], q.tolist())) for row, q in zip(ids, p)]
            return [ask(*query) for query in zip(images, texts, found)]
        if task == "ve":
            return entail(images, texts, model(pixels, words, None, train=False))
        if task == "nlvr":
            both, labels = torch.cat([pixels, pixels.roll(-1, 0)]), torch.zeros(len(images))
            return reason(images, texts, model(both, words, labels, train=False))
        if task == "nlvr-ta":  # a start for training: neither the class nor a command of `albef` answers anything
            return []
        retrieval, grounding = (importlib.import_module(name) for name in ["Retrieval", "Grounding"])
        if task == "pretrain":  # without the word head, as the fine-tuning scripts read it
            model.text_encoder = model.text_encoder.bert
        retrieval.args = types.SimpleNamespace(distributed=False)
        loader = Loader([(pixels[i : i + 1], i) for i in range(len(images))], images, clean)
        evaluation = lambda: retrieval.evaluation(model, loader, self.tokenizer, "cpu", {"k_test": len(images)})
        part = lambda name: getattr(model, name)
        out = match(images, texts, *evaluated(evaluation, part, len(images)))
        if len(images) > 1 and task == "pretrain":
            loader.dataset.text = LABELS
            _, cosines, _, p = evaluated(evaluation, part, len(images))
            rows = {"cosine": cosines, "match probability": p}
            wanted = {name: dict(zip(LABELS, values[0].tolist())) for name, values in rows.items()}
            out.append((["classify", images[0], *LABELS, "--template", "{}"], wanted))
        for mode, layer in [("itm", 8), ("itc", 11)] if len(images) > 1 and task == "grounding" else []:
            batches = [(pixels[i : i + 1], clean[i : i + 1], torch.tensor([i])) for i in range(len(images))]
            with torch.enable_grad():
                maps = grounding.val(model, batches, self.tokenizer, "cpu", mode, layer)
            for image, text, found in zip(images, texts, maps):
                grid = relative(found["pred"].flatten().tolist())
                out.append((["ground", image, text, "--mode", mode, "--layer", str(layer)], {f"{mode} map": grid}))
        return out


class Lavis:
    MODELS = {
        "pretrain": ("pretrain_base", "AlbefPretrain"), "retrieval": ("retrieval_coco", "AlbefRetrieval"),
        "vqa": ("vqav2", "AlbefVQA"), "ve": ("classification_ve", "AlbefClassification"), "nlvr": ("nlvr", "AlbefNLVR"),
    }  # fmt: skip

    def __init__(self, root: pathlib.Path, vocab: str):
        offline(vocab)
        for name in ["", ".common", ".models", ".processors"]:
            stub(f"lavis{name}", __path__=[str(root / "lavis" / name[1:])])
        for name in ["", ".nn", ".nn.checkpoint", ".nn.checkpoint.checkpoint_activations"]:
            stub(f"fairscale{name}", checkpoint_wrapper=None)
        importlib.import_module("lavis.common.registry").registry.register_path("library_root", str(root / "lavis"))
        sys.modules["lavis.models"].BaseModel = importlib.import_module("lavis.models.base_model").BaseModel
        base = importlib.import_module("lavis.processors.base_processor").BaseProcessor
        sys.modules["lavis.processors"].BaseProcessor = base
        self.root = root

    def build(self, task: str):
        name, model = self.MODELS[task]
        files = self.root / "lavis/configs/models"
        config = importlib.import_module("omegaconf").OmegaConf.load(files / f"albef_{name}.yaml").model
        config.update({"load_finetuned": False, "load_pretrained": False})
        if task == "pretrain":  # the size of its training configuration, and no start from DeiT
            config.image_size = 256
            vision = importlib.import_module("lavis.models.vit").VisionTransformerEncoder
            start = vision.from_config
            vision.from_config = classmethod(lambda cls, config, **other: start(config))
        self.size = config.image_size
        module = importlib.import_module(f"lavis.models.albef_models.{model.replace('Albef', 'albef_').lower()}")
        return getattr(module, model).from_config(config)

    saved = staticmethod(lambda task, model: {"model": model.state_dict(), "epoch": 4})

    def queries(self, task, model, images, texts):
        blip = importlib.import_module("lavis.processors.blip_processors")
        read = blip.BlipImageEvalProcessor(image_size=self.size)
        pixels = torch.stack([read(Image.open(i).convert("RGB")) for i in images])
        clean = [(blip.BlipQuestionProcessor if task == "vqa" else blip.BlipCaptionProcessor)()(t) for t in texts]
        samples = {"image": pixels, "text_input": clean, "label": torch.zeros(len(images))}
        if task == "vqa":
            return [ask(i, t, p) for i, t, p in zip(images, texts, self.answers(model, samples))]
        if task == "ve":
            return entail(images, texts, model.predict(samples)["predictions"])
        if task == "nlvr":
            samples |= {"image0": pixels, "image1": pixels.roll(-1, 0)}
            return reason(images, texts, model.predict(samples)["predictions"])
        if task == "pretrain":  # without the word head, as its retrieval model reads it
            model.text_encoder = model.text_encoder.bert
            model.text_encoder.__class__ = importlib.import_module("lavis.models.med").XBertEncoder
        similarity = importlib.import_module("lavis.models.albef_models").compute_sim_matrix
        loader = Loader([{"image": p[None]} for p in pixels], images, clean)
        evaluation = lambda: similarity(model, loader, k_test=len(images))
        part = lambda name: getattr(model, name)
        return match(images, texts, *evaluated(evaluation, part, len(images), adds_cosine=True))

    def answers(self, model, samples):
        """The model returns the best answers alone; the losses that it ranks by are those of its last decoding."""
        seen = []
        keep = lambda module, given, output: seen.append((given[0], output.loss))
        hook = model.text_decoder.register_forward_hook(keep)
        best = model.predict_answers(samples, ANSWERS, RERANK)
        hook.remove()
        ids, losses = seen[-1]
        known = model.tokenizer(ANSWERS, padding="longest", return_tensors="pt").input_ids
        names = [ANSWERS[(known == row).all(1).nonzero().item()] for row in ids]
        p = (-losses.view(-1, RERANK)).softmax(-1).tolist()
        found = [dict(zip(names[i * RERANK :], row)) for i, row in enumerate(p)]
        assert best == [max(row, key=row.get) for row in found]
        return found


class TorchMultimodal:
    def __init__(self, root: pathlib.Path, vocab: str):
        offline(vocab)
        sys.path[:0] = [str(root), str(root / "examples/albef")]
        own = importlib.import_module("torchmultimodal.transforms.text_transforms")
        parts = {name: getattr(own, name) for name in ["Truncate", "ToTensor", "PadTransform"]}
        parts |= {"Sequential": torch.nn.Sequential, "LightningDataModule": object}
        for name in ["torchtext", "torchtext.transforms", "pytorch_lightning", "ruamel", "ruamel.yaml"]:
            stub(name, **parts)
        self.root = root

    def build(self, task: str):
        text = (self.root / f"examples/albef/configs/{task}.yaml").read_text()
        text = re.sub(r"\b1e-", "1.0e-", text)  # YAML 1.1 takes 1e-6 for a string
        config = importlib.import_module("yaml").safe_load(text)
        return getattr(importlib.import_module("model"), f"albef_model_for_{task}")(config)

    saved = staticmethod(lambda task, model: model.state_dict())

    def queries(self, task, model, images, texts):
        if task == "vqa":
            transforms = importlib.import_module("data.transforms")
            read, words = transforms.testing_image_transform(), transforms.ALBEFTextTransform(add_end_token=False)
            answers, out = transforms.ALBEFTextTransform(do_pre_process=False)(ANSWERS), []
            for image, text in zip(images, texts):
                pixels, question = read(Image.open(image).convert("RGB"))[None], words(text)[None]
                masks = [(ids != 0).long() for ids in [question, answers]]
                ids, p = model(pixels, question, masks[0], answers, masks[1], k=RERANK, is_train=False)
                out.append(ask(image, text, dict(zip([ANSWERS[a] for a in ids[0]], p[0].tolist()))))
            return out
        pathlib.Path("list.json").write_text(json.dumps([{"image": i, "caption": [t]} for i, t in zip(images, texts)]))
        module = importlib.import_module("data.retrieval_datamodule").RetrievalDataModule
        data = module([], ["list.json"], "", batch_size=1, num_workers=0)
        options = {"k_test": len(images), "log_every_n_steps": 100}
        evaluation = lambda: importlib.import_module("finetune_retrieval").evaluation(model, data, options, "cpu")
        part = lambda name: getattr(model if name == "itm_head" else model.model_with_similarity, name)
        return match(images, texts, *evaluated(evaluation, part, len(images)))


FAMILIES = {"official": Official, "lavis": Lavis, "torchmultimodal": TorchMultimodal}


# A child process has one model: it makes the file and the outputs, or loads the file and makes one query.
def randomize(model, seed: int) -> None:
    """Weights with which attention is neither uniform nor hard, and outputs depend on texts and images."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if p.dim() > 0:
            noise = torch.randn(p.shape, generator=generator) * (0.05 if p.dim() > 1 else 0.1)
            p.data = noise + 1 if p.dim() == 1 and name.endswith("weight") else noise


def child(a) -> None:
    torch.set_num_threads(2)
    name, task, file = a.layout.split("-")[0], LAYOUTS[a.layout], a.work / f"{a.layout}.pth"
    original = FAMILIES[name](getattr(a, name).resolve(), str(a.vocab.resolve()))
    os.chdir(a.work)
    images = [str(a.work / f"images/{i}.png") for i in range(2)]
    texts, result = QUESTIONS if task == "vqa" else CAPTIONS, {}
    for name in ["normal_", "uniform_", "erfinv_"]:  # faster: the initial weights are not used
        setattr(torch.Tensor, name, lambda tensor, *a, **other: tensor)
    with torch.no_grad():
        model = original.build(task).eval()
        if a.child == "make":
            randomize(model, sorted(LAYOUTS).index(a.layout))
            torch.save(original.saved(task, model), file)
            result["queries"] = original.queries(task, model, images, texts)
        else:
            started = time.perf_counter()
            state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            model.load_state_dict(state.get("model", state), strict=False)
            result["load"] = time.perf_counter() - started
            original.queries(task, model, images[:1], texts[:1])
    (a.work / "child.json").write_text(json.dumps(result))


# The parent process runs both and compares.
def pictures(folder: pathlib.Path) -> None:
    """Colored noise of two sizes, as PNG: no JPEG decoder takes part."""
    from PIL import Image

    folder.mkdir(exist_ok=True)
    for i, size in enumerate([(512, 384), (200, 300)]):
        coarse = Image.frombytes("RGB", (9, 7), random.Random(i).randbytes(9 * 7 * 3))
        coarse.resize(size, Image.Resampling.BICUBIC).save(folder / f"{i}.png")


def run(command: list[str], work: pathlib.Path) -> tuple[str, tuple[float, float, float]]:
    """Standard output, (seconds, seconds of the processor, peak of resident memory in GB)."""
    started = time.perf_counter()
    with (work / "stdout").open("w+b") as out, (work / "stderr").open("w+b") as errors:
        process = subprocess.Popen(command, stdout=out, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        seconds, process.returncode = time.perf_counter() - started, os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            errors.seek(0)
            sys.exit(f"{' '.join(command)}\n{errors.read().decode()[-3000:]}")
        out.seek(0)
        return out.read().decode(), (seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9)


def found(command: str, text: str) -> dict[str, dict[str, float]]:
    """What `albef` printed, by the quantities and items of the originals."""
    if command == "embed":
        rows = [json.loads(line)["feature"] for line in text.splitlines()]
        return {"feature": {f"{i}.{j}": x for i, row in enumerate(rows) for j, x in enumerate(row)}}
    value = json.loads(text)
    each = lambda key, rows: {str(row.get("label", i)): row[key] for i, row in enumerate(rows)}
    if command in ["match", "classify"]:
        rows = value.get("classes") or value.get("results") or [value]
        keys = {"cosine": "cosine", "ITM logit": "itm_logit", "match probability": "probability"}
        keys |= {"match probability": "match_probability"} if command == "classify" else {}
        return {name: each(key, rows) for name, key in keys.items() if key in rows[0]}
    if command == "ask":
        return {"answer probability": {row["answer"]: row["probability"] for row in value["answers"]}}
    if command == "entail":
        return {"class probability": value["probabilities"]}
    if command == "reason":
        return {"truth probability": {"true": value["probability"]}}
    return {f"{value['mode']} map": relative(value["map"])}


def check(a, layout: str) -> bool:
    file = a.work / f"{layout}.pth"
    original = [sys.executable, *sys.argv, "--layout", layout, "--child"]
    answer = lambda: json.loads((a.work / "child.json").read_text())

    def ours(arguments):
        model = [str(file)] if arguments[0] == "inspect" else ["--model", str(file)]
        return [a.albef, *arguments, *model, "-q", *["--json"][: arguments[0] != "embed"]]

    run([*original, "make"], a.work)
    queries, size = answer()["queries"], file.stat().st_size / 1e9
    inspected = json.loads(run(ours(["inspect"]), a.work)[0])
    worst: dict[str, float] = {}
    for arguments, wanted in queries:
        got = found(arguments[0], run(ours(arguments), a.work)[0])
        for name, values in wanted.items():
            if set(values) != set(got[name]):
                sys.exit(f"{layout}: {arguments}: {sorted(values)} in the original, and {sorted(got[name])} here")
            differences = [abs(values[key] - got[name][key]) for key in values]
            differences = [x if math.isfinite(x) else math.inf for x in differences]
            worst[name] = max(worst.get(name, 0.0), *differences)
            spread = f"{len(values)} from {min(values.values()):.4g} to {max(values.values()):.4g}"
            print(f"{layout}: {arguments[0]}: {name}: {spread}, {worst[name]:.1e}", file=sys.stderr)
    query = queries[0][0] if queries else ["inspect"]
    query = [*query[:2], query[-1]] if query[0] == "match" else query
    commands = {"ours": ours(query), "theirs": [*original, "query"]}
    costs, load = {who: [] for who in commands}, []
    for _ in range(a.rounds):
        for who, command in commands.items():
            costs[who].append(run(command, a.work)[1])
        load.append(answer()["load"])
    file.unlink()
    cells = [f"`{layout}`", inspected["task"], f"{size:.2f} GB", ", ".join(f"{n} {x:.0e}" for n, x in worst.items())]
    for rounds in costs.values() if a.rounds else []:
        (wall, cpu), peak = (statistics.median(column) for column in list(zip(*rounds))[:2]), max(r[2] for r in rounds)
        cells += [f"{wall:.1f} s ({cpu:.1f} s), {peak:.2f} GB"]
    cells += [f"{statistics.median(load):.1f} s"] if a.rounds else []
    print(f"| {' | '.join(cells)} |", flush=True)
    return max(worst.values(), default=0.0) <= a.tolerance


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layouts", nargs="*", metavar="LAYOUT", help=", ".join(LAYOUTS))
    for family in FAMILIES:
        parser.add_argument(f"--{family}", type=pathlib.Path, help="checkout of its repository")
    parser.add_argument("--vocab", type=pathlib.Path, required=True, help="vocab.txt of bert-base-uncased")
    parser.add_argument("--albef", default="albef", help="the program")
    parser.add_argument("--work", type=pathlib.Path, default="layouts", help="folder for files of up to 3 GB")
    parser.add_argument("--rounds", type=int, default=3, help="timed queries of either program")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--child", choices=["make", "query"], help=argparse.SUPPRESS)
    parser.add_argument("--layout", help=argparse.SUPPRESS)
    a = parser.parse_args()
    a.work = a.work.resolve()
    if a.child:
        with contextlib.redirect_stdout(sys.stderr):
            child(a)
        return 0
    if unknown := set(a.layouts) - set(LAYOUTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    a.work.mkdir(parents=True, exist_ok=True)
    pictures(a.work / "images")
    (a.work / "answers.json").write_text(json.dumps(ANSWERS))
    print("| Layout | Task | File | Largest difference | `albef` | original | loading |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    chosen = a.layouts or [name for name in LAYOUTS if getattr(a, name.split("-")[0])]
    return 0 if all([check(a, layout) for layout in chosen]) else 1


if __name__ == "__main__":
    sys.exit(main())

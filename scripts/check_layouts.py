#!/usr/bin/env python3
"""Full-size checkpoints of every published layout, with random weights: `albef` against the original code.

    pip install torch torchvision "numpy<2" "pillow<13" transformers==4.25.1 opencv-python-headless \\
        omegaconf pandas iopath && pip install --no-deps timm==0.4.12
    git clone https://github.com/salesforce/ALBEF; git clone https://github.com/salesforce/LAVIS
    git clone https://github.com/facebookresearch/multimodal
    python scripts/check_layouts.py --official ALBEF --lavis LAVIS --torchmultimodal multimodal \\
        --vocab vocab.txt --albef target/release/albef official-vqa lavis-vqa

For each layout (all if none is named) the original model class is built and filled with random weights (momentum
copies with others), and saved as that project saves it. Its own preprocessing and evaluation compute the outputs
for three PNG images and three texts, `albef` reads the file and computes the same, and a row of a Markdown table
is printed: the largest absolute difference of each quantity, and the median time and the largest peak memory of
one query by either program, each in a process of its own, in turns. The file is deleted afterwards. Nothing of the
original repositories is changed; modules that these models do not need are replaced by empty ones. `vocab.txt` is that of
bert-base-uncased. Exit code 0 if everything agrees within --tolerance, 1 if not.
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import resource
import statistics
import subprocess
import sys
import time
import types

# Imported by the child processes alone, so that the parent stays small.
if "--child" in sys.argv:
    import torch
    from PIL import Image

CAPTIONS = [
    "A man in a red jacket, riding a brown horse on the beach.",
    "Two dogs - one black-and-white, one brown - don't chase the café's (old) ball;  it's too far",
    "a very long caption: " + "the quick brown fox jumps over the lazy dog, " * 5 + "and nobody ever reads its end",
]
QUESTIONS = [
    "What color is the man's jacket?",
    "How many dogs - or cats - are there, and what's on the T-shirt (left)?",
    "If you look at the left half of the image, past the old wooden fence, and then a little further up the hill, "
    "what kind of animal is standing there, if there is any at all?",
]
ANSWERS = [
    "yes", "no", "2", "red", "brown horse", "on the beach", "don't know", "playing frisbee", "café", "black and white",
    "surfboard", "5:30",
]
RERANK = 8
LABELS = ["a dog", "a red horse"]
VE_CLASSES = ["contradiction", "neutral", "entailment"]

LAYOUTS = {
    "official-pretrain": "pretrain", "official-retrieval": "retrieval", "official-grounding": "grounding",
    "official-vqa": "vqa", "official-ve": "ve", "official-nlvr-ta": "nlvr-ta", "official-nlvr": "nlvr",
    "lavis-pretrain": "pretrain", "lavis-coco": "retrieval", "lavis-flickr": "retrieval", "lavis-vqa": "vqa",
    "lavis-ve": "ve", "lavis-nlvr": "nlvr",
    "torchmultimodal-retrieval": "retrieval", "torchmultimodal-vqa": "vqa",
}


# Originals: each class builds a model, says what its project saves, and asks it.


def package(name: str, folder: pathlib.Path) -> None:
    """A package whose modules can be imported without running its `__init__`."""
    module = types.ModuleType(name)
    module.__path__ = [str(folder)]
    sys.modules[name] = module


def stub(name: str, **attributes) -> None:
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(attributes)


def without_downloads(vocab: str):
    """BERT from its configuration instead of a download, and the tokenizer from a file."""
    from transformers import BertTokenizer
    from transformers.modeling_utils import PreTrainedModel

    PreTrainedModel.from_pretrained = classmethod(lambda cls, *a, config, **other: cls(config, **other))
    BertTokenizer.from_pretrained = classmethod(lambda cls, *a, **other: cls(vocab))


class Loader(list):
    """Batches of one image, with the texts where the evaluation of an original looks for them."""

    def __init__(self, batches, images, texts):
        super().__init__(batches)
        self.dataset = types.SimpleNamespace(image=images, text=texts)


def recorded(modules: dict, run):
    """What `run` returns, and what the modules returned meanwhile."""
    seen = {name: [] for name in modules}
    hooks = [
        module.register_forward_hook(lambda m, i, o, name=name: seen[name].append(o.detach()))
        for name, module in modules.items()
    ]
    result = run()
    for hook in hooks:
        hook.remove()
    return result, seen


def matching(images, texts, part, run, adds_cosine=False):
    """Queries whose answers are those of an evaluation of retrieval (`run`, with all candidates re-ranked)."""
    (scores, _), seen = recorded({n: part(n) for n in ["vision_proj", "text_proj", "itm_head"]}, run)
    scores = torch.as_tensor(scores)
    unit = lambda name: torch.nn.functional.normalize(torch.cat(seen[name]), dim=-1)
    image, text = unit("vision_proj"), unit("text_proj")
    cosine = image @ text.T
    logits = scores - cosine if adds_cosine else scores
    rows = torch.stack(seen["itm_head"][: len(images)])  # one call for each image, its texts in order of cosine
    nearest = (rows[:, None, :, 1] - logits[:, :, None]).abs().argmin(-1)
    match = rows.softmax(-1)[..., 1].gather(1, nearest)
    name = [str(i) for i in range(len(images))]
    return cosine, match, [
        (["match", *images, t], {
            "cosine": dict(zip(name, cosine[:, j].tolist())), "ITM logit": dict(zip(name, logits[:, j].tolist())),
            "match probability": dict(zip(name, match[:, j].tolist())),
        }) for j, t in enumerate(texts)
    ] + [embed(images, texts, [*image, *text])]


def embed(images, texts, features):
    arguments = ["embed", os.path.dirname(images[0]), *[x for t in texts for x in ["--text", t]]]
    return arguments, {"feature": {f"{i}.{j}": x for i, f in enumerate(features) for j, x in enumerate(f.tolist())}}


def ask(image, question, probabilities):
    arguments = ["ask", image, question, "--answers", os.path.abspath("answers.json"), "--top-k", str(RERANK), "--rerank-k", str(RERANK)]
    return arguments, {"answer probability": probabilities}


class Official:
    def __init__(self, root: pathlib.Path, vocab: str):
        sys.path.insert(0, str(root))
        for name in ["ruamel_yaml", "refTools", "refTools.evaluation"]:
            stub(name)
        stub("refTools.evaluation.refEvaluation", RefEvaluation=None)
        stub("refTools.refer_python3", REFER=None)
        stub("vqaTools", __path__=[])
        stub("vqaTools.vqaEval", VQAEval=None)
        stub("scheduler", create_scheduler=None)
        stub("optim", create_optimizer=None)
        without_downloads(vocab)
        from transformers import file_utils

        file_utils.add_code_sample_docstrings = lambda *a, **other: lambda function: function  # of an older version
        from models.tokenization_bert import BertTokenizer

        self.root, self.tokenizer = root, BertTokenizer(vocab)

    def build(self, task: str):
        import importlib

        module = {"nlvr-ta": "pretrain_nlvr", "grounding": "retrieval"}.get(task, task)
        self.size = 256 if task in ["pretrain", "nlvr-ta"] else 384
        config = {
            "bert_config": str(self.root / "configs/config_bert.json"), "image_res": self.size, "vision_width": 768,
            "embed_dim": 256, "temp": 0.07, "queue_size": 65536, "momentum": 0.995, "distill": True,
            "mlm_probability": 0.15,
        }
        more = {"text_decoder": "bert"} if task == "vqa" else {"init_deit": False} if task == "pretrain" else {}
        model = importlib.import_module(f"models.model_{module}").ALBEF
        return model(config=config, text_encoder="bert", tokenizer=self.tokenizer, **more)

    def saved(self, task: str, model):
        state = model.state_dict()
        if task in ["retrieval", "grounding"]:  # the published files: flat, without momentum and queues
            skip = re.compile(r"\w+_m\.|\w+_queue|queue_ptr")
            return {name: tensor for name, tensor in state.items() if not skip.match(name)}
        return {"model": state, "epoch": 9}

    def inputs(self, images, task):
        from dataset import create_dataset
        from dataset.utils import pre_caption, pre_question

        sets = [{"image": i, "image_id": i, "caption": [t]} for i, t in zip(images, CAPTIONS)]
        pathlib.Path("list.json").write_text(json.dumps(sets))
        files = {"train_file": ["list.json"], "val_file": "list.json", "test_file": "list.json"}
        test = create_dataset("re", {"image_res": self.size, "image_root": "", **files})[2]
        pixels = torch.stack([test[i][0] for i in range(len(images))])
        clean = (lambda t: pre_question(t, 50)) if task == "vqa" else (lambda t: pre_caption(t, 30))
        return pixels, clean

    def queries(self, task, model, images, texts):
        pixels, clean = self.inputs(images, task)
        tokens = lambda texts: self.tokenizer(texts, padding="longest", return_tensors="pt")
        if task == "vqa":
            answers = tokens([a + "[SEP]" for a in ANSWERS])
            out = []
            for i, t in zip(range(len(images)), texts):
                ids, p = model(pixels[i : i + 1], tokens([clean(t)]), answers, train=False, k=RERANK)
                out.append(ask(images[i], t, dict(zip([ANSWERS[a] for a in ids[0]], p[0].tolist()))))
            return out
        if task == "ve":
            p = model(pixels, tokens([clean(t) for t in texts]), None, train=False).softmax(-1).tolist()
            classes = [dict(zip(VE_CLASSES, row)) for row in p]
            return [(["entail", i, t], {"class probability": c}) for i, t, c in zip(images, texts, classes)]
        if task == "nlvr":
            n = len(images)
            both, words = torch.cat([pixels, pixels.roll(-1, 0)]), tokens([clean(t) for t in texts])
            p = model(both, words, torch.zeros(n), train=False).softmax(-1)[:, 1].tolist()
            return [
                (["reason", images[i], images[(i + 1) % n], texts[i]], {"truth probability": {"true": p[i]}})
                for i in range(n)
            ]
        if task == "nlvr-ta":  # the class has no evaluation of its own: features as its forward pass takes them
            image = model.vision_proj(model.visual_encoder(pixels)[:, 0])
            words = tokens([clean(t) for t in texts])
            states = model.text_encoder(words.input_ids, words.attention_mask, mode="text", return_dict=True)
            text = model.text_proj(states.last_hidden_state[:, 0])
            return [embed(images, texts, torch.nn.functional.normalize(torch.cat([image, text]), dim=-1))]
        import Grounding
        import Retrieval

        if task == "pretrain":  # without the word head, as the fine-tuning scripts read it
            model.text_encoder = model.text_encoder.bert
        Retrieval.args = types.SimpleNamespace(distributed=False)
        loader = Loader([(pixels[i : i + 1], i) for i in range(len(images))], images, [clean(t) for t in texts])
        run = lambda: Retrieval.evaluation(model, loader, self.tokenizer, "cpu", {"k_test": len(images)})
        cosine, match, out = matching(images, texts, lambda name: getattr(model, name), run)
        if len(images) == 1:
            return out
        if task == "pretrain":
            loader.dataset.text = [clean(t) for t in LABELS] + [clean(texts[0])]
            cosine, match, _ = matching(images, texts, lambda name: getattr(model, name), run)
            out.append((["classify", images[0], *LABELS, "--template", "{}"], {
                "cosine": dict(zip(LABELS, cosine[0].tolist())),
                "match probability": dict(zip(LABELS, match[0].tolist())),
            }))
        if task == "grounding":
            for mode, layer in [("itm", 8), ("itc", 11)]:
                for i, t in enumerate(texts):
                    batch = Loader([(pixels[i : i + 1], [clean(t)], torch.tensor([i]))], images, texts)
                    with torch.enable_grad():
                        (found,) = Grounding.val(model, batch, self.tokenizer, "cpu", mode, layer)
                    cells = dict(enumerate(found["pred"].flatten().tolist()))
                    arguments = ["ground", images[i], t, "--mode", mode, "--layer", str(layer)]
                    out.append((arguments, {f"{mode} map": {str(k): v for k, v in cells.items()}}))
        return out


class Lavis:
    def __init__(self, root: pathlib.Path, vocab: str):
        for name in ["", ".common", ".models", ".processors"]:
            package(f"lavis{name}", root / "lavis" / name[1:])
        for name in ["fairscale", "fairscale.nn", "fairscale.nn.checkpoint"]:
            stub(name)
        stub("fairscale.nn.checkpoint.checkpoint_activations", checkpoint_wrapper=lambda module: module)
        sys.path.insert(0, str(root))
        without_downloads(vocab)
        from lavis.common.registry import registry

        registry.register_path("library_root", str(root / "lavis"))
        self.root = root

    def build(self, task: str):
        from omegaconf import OmegaConf

        name = {"retrieval": "retrieval_coco", "vqa": "vqav2", "ve": "classification_ve"}.get(task, task)
        name = {"pretrain": "pretrain_base"}.get(name, name)
        config = OmegaConf.load(self.root / f"lavis/configs/models/albef_{name}.yaml").model
        config.update({"load_finetuned": False, "load_pretrained": False})
        from lavis.models.vit import VisionTransformerEncoder

        if task == "pretrain":  # 256 px as in its training configuration, and no start from DeiT
            config.image_size = 256
            start = VisionTransformerEncoder.from_config
            VisionTransformerEncoder.from_config = classmethod(lambda cls, cfg, **other: start(cfg))
            from lavis.models.albef_models.albef_pretrain import AlbefPretrain as Model
        elif task == "retrieval":
            from lavis.models.albef_models.albef_retrieval import AlbefRetrieval as Model
        elif task == "vqa":
            from lavis.models.albef_models.albef_vqa import AlbefVQA as Model
        elif task == "ve":
            from lavis.models.albef_models.albef_classification import AlbefClassification as Model
        else:
            from lavis.models.albef_models.albef_nlvr import AlbefNLVR as Model
        self.size = config.image_size
        return Model.from_config(config)

    def saved(self, task: str, model):
        return {"model": model.state_dict(), "epoch": 4}

    def queries(self, task, model, images, texts):
        from lavis.models.albef_models import compute_sim_matrix
        from lavis.processors.blip_processors import (
            BlipCaptionProcessor, BlipImageEvalProcessor, BlipQuestionProcessor,
        )

        read = BlipImageEvalProcessor(image_size=self.size)
        pixels = torch.stack([read(Image.open(i).convert("RGB")) for i in images])
        clean = BlipQuestionProcessor() if task == "vqa" else BlipCaptionProcessor()
        n, cleaned = len(images), [clean(t) for t in texts]
        if task == "vqa":
            return [self.answers(model, images[i], pixels[i : i + 1], texts[i], cleaned[i]) for i in range(n)]
        samples = {"text_input": cleaned, "label": torch.zeros(n)}
        if task == "ve":
            p = model.predict({"image": pixels, **samples})["predictions"].softmax(-1).tolist()
            classes = [dict(zip(VE_CLASSES, row)) for row in p]
            return [(["entail", i, t], {"class probability": c}) for i, t, c in zip(images, texts, classes)]
        if task == "nlvr":
            found = model.predict({"image0": pixels, "image1": pixels.roll(-1, 0), **samples})["predictions"]
            p = found.softmax(-1)[:, 1].tolist()
            return [
                (["reason", images[i], images[(i + 1) % n], texts[i]], {"truth probability": {"true": p[i]}})
                for i in range(n)
            ]
        if task == "pretrain":  # without the word head, as its retrieval model reads it
            from lavis.models.med import XBertEncoder

            model.text_encoder = model.text_encoder.bert
            model.text_encoder.__class__ = XBertEncoder
        loader = Loader([{"image": pixels[i : i + 1]} for i in range(n)], images, cleaned)
        run = lambda: compute_sim_matrix(model, loader, k_test=n)
        return matching(images, texts, lambda name: getattr(model, name), run, adds_cosine=True)[2]

    def answers(self, model, image, pixels, question, cleaned):
        """The model returns the best answer alone; the losses that it ranks by are those of its last decoding."""
        seen = []
        hook = model.text_decoder.register_forward_hook(lambda m, i, o: seen.append((i[0], o.loss)))
        (best,) = model.predict_answers({"image": pixels, "text_input": [cleaned]}, ANSWERS, RERANK)
        hook.remove()
        ids, loss = seen[-1]
        known = model.tokenizer(ANSWERS, padding="longest", return_tensors="pt").input_ids
        names = [ANSWERS[(known == row).all(1).nonzero().item()] for row in ids]
        p = dict(zip(names, (-loss.view(-1)).softmax(0).tolist()))
        assert best == max(p, key=p.get)
        return ask(image, question, p)


class TorchMultimodal:
    def __init__(self, root: pathlib.Path, vocab: str):
        from transformers.models.bert import tokenization_bert

        sys.path[:0] = [str(root), str(root / "examples/albef")]
        tokenization_bert.BertTokenizer.from_pretrained = classmethod(lambda cls, *a, **other: cls(vocab))
        from torchmultimodal.transforms import text_transforms

        sequential = types.SimpleNamespace(Sequential=torch.nn.Sequential)
        stub("torchtext")
        stub("torchtext.transforms", **vars(text_transforms) | vars(sequential))
        stub("pytorch_lightning", LightningDataModule=object)
        stub("ruamel")
        stub("ruamel.yaml")
        self.root = root

    def build(self, task: str):
        import model
        import yaml

        text = (self.root / f"examples/albef/configs/{task}.yaml").read_text()
        config = yaml.load(re.sub(r"(\d)e-", r"\1.0e-", text), Loader=yaml.SafeLoader)
        return getattr(model, f"albef_model_for_{task}")(config)

    def saved(self, task: str, model):
        return model.state_dict()

    def queries(self, task, model, images, texts):
        pathlib.Path("list.json").write_text(json.dumps([{"image": i, "caption": [t]} for i, t in zip(images, texts)]))
        if task == "vqa":
            from data.transforms import ALBEFTextTransform, testing_image_transform

            answers = ALBEFTextTransform(do_pre_process=False)(ANSWERS)
            words, read, out = ALBEFTextTransform(add_end_token=False), testing_image_transform(), []
            for i, t in zip(images, texts):
                pixels, question = read(Image.open(i).convert("RGB"))[None], words(t)[None]
                masks = (question != 0).long(), (answers != 0).long()
                ids, p = model(pixels, question, masks[0], answers, masks[1], k=RERANK, is_train=False)
                out.append(ask(i, t, dict(zip([ANSWERS[a] for a in ids[0]], p[0].tolist()))))
            return out
        import finetune_retrieval
        from data.retrieval_datamodule import RetrievalDataModule

        data = RetrievalDataModule([], ["list.json"], "", batch_size=1, num_workers=0)
        options = {"k_test": len(images), "log_every_n_steps": 100}
        run = lambda: finetune_retrieval.evaluation(model, data, options, "cpu")
        part = lambda name: model.itm_head if name == "itm_head" else getattr(model.model_with_similarity, name)
        return matching(images, texts, part, run)[2]


FAMILIES = {"official": Official, "lavis": Lavis, "torchmultimodal": TorchMultimodal}


def randomize(model, seed: int) -> None:
    """Weights of a size at which attention is neither uniform nor hard and texts and images matter."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        if p.dim() > 1:
            p.data = 0.05 * noise
        elif p.dim() == 1:
            p.data = 0.1 * noise + (1.0 if name.endswith("weight") else 0.0)


# Child processes, with one model each.


def child(a, layout: str) -> None:
    torch.set_num_threads(2)
    family, task = FAMILIES[layout.split("-")[0]], LAYOUTS[layout]
    original = family(getattr(a, layout.split("-")[0]).resolve(), str(a.vocab.resolve()))
    os.chdir(a.work)
    images = [str(pathlib.Path("images", f"{i}.png").resolve()) for i in range(3)]
    texts = QUESTIONS if task == "vqa" else CAPTIONS
    draws = {name: getattr(torch.Tensor, name) for name in ["normal_", "uniform_", "erfinv_"]}
    for name in draws:  # the initial weights are not used
        setattr(torch.Tensor, name, lambda tensor, *a, **other: tensor)
    model, result = original.build(task), {}
    for name, draw in draws.items():
        setattr(torch.Tensor, name, draw)
    if a.child == "make":
        randomize(model, sorted(LAYOUTS).index(layout))
        torch.save(original.saved(task, model), a.work / f"{layout}.pth")
        with torch.no_grad():
            result["queries"] = original.queries(task, model.eval(), images, texts)
    else:
        started = time.perf_counter()
        read = torch.load(a.work / f"{layout}.pth", map_location="cpu", weights_only=True, mmap=True)
        model.load_state_dict(read.get("model", read), strict=False)
        result["load"] = time.perf_counter() - started
        with torch.no_grad():
            original.queries(task, model.eval(), images[:1], texts[:1])
    (a.work / "child.json").write_text(json.dumps(result))


def pictures(folder: pathlib.Path) -> None:
    """Colored noise of different sizes as PNG, so that no JPEG decoder takes part."""
    import numpy as np
    from PIL import Image

    folder.mkdir(exist_ok=True)
    for i, size in enumerate([(320, 240), (200, 300), (512, 384)]):
        coarse = np.random.default_rng(i).integers(0, 256, (7, 9, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(folder / f"{i}.png")


# The parent: runs both, compares, measures.


def run(command: list[str], work: pathlib.Path) -> tuple[str, float, float]:
    """Standard output, seconds and the peak of resident memory in GB; output goes through a file."""
    started = time.perf_counter()
    with (work / "stdout").open("w+b") as out, (work / "stderr").open("w+b") as errors:
        process = subprocess.Popen(command, stdout=out, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            errors.seek(0)
            sys.exit(f"{' '.join(command)}\n{errors.read().decode()[-3000:]}")
        out.seek(0)
        return out.read().decode(), seconds, usage.ru_maxrss * 1024 / 1e9


def found(command: str, text: str) -> dict[str, dict[str, float]]:
    """What `albef` printed, in the terms of the originals."""
    if command == "embed":
        rows = [json.loads(line)["feature"] for line in text.splitlines()]
        return {"feature": {f"{i}.{j}": x for i, row in enumerate(rows) for j, x in enumerate(row)}}
    value = json.loads(text)
    if command == "match":
        rows = value["results"] if "results" in value else [value]
        each = lambda key: {str(i): row[key] for i, row in enumerate(rows)}
        return {"cosine": each("cosine"), "ITM logit": each("itm_logit"), "match probability": each("probability")}
    if command == "classify":
        each = lambda key: {row["label"]: row[key] for row in value["classes"]}
        return {"cosine": each("cosine"), "match probability": each("match_probability")}
    if command == "ask":
        return {"answer probability": {row["answer"]: row["probability"] for row in value["answers"]}}
    if command == "entail":
        return {"class probability": value["probabilities"]}
    if command == "reason":
        return {"truth probability": {"true": value["probability"]}}
    return {f"{value['mode']} map": {str(i): x for i, x in enumerate(value["map"])}}


def check(a, layout: str) -> bool:
    itself = [sys.executable, *sys.argv, "--layout", layout, "--child"]
    file = a.work / f"{layout}.pth"
    result = lambda: json.loads((a.work / "child.json").read_text())
    run([*itself, "make"], a.work)
    queries, size = result()["queries"], file.stat().st_size / 1e9
    options = ["--model", str(file), "-q"]
    inspected = json.loads(run([a.albef, "inspect", str(file), "--json"], a.work)[0])
    worst, span = {}, {}
    for arguments, wanted in queries:
        json_option = [] if arguments[0] == "embed" else ["--json"]
        got = found(arguments[0], run([a.albef, *arguments, *options, *json_option], a.work)[0])
        for name, values in wanted.items():
            if set(values) != set(got[name]):
                sys.exit(f"{layout}: {arguments}: {sorted(values)} in the original, {sorted(got[name])} in `albef`")
            worst[name] = max(worst.get(name, 0.0), *(abs(values[k] - got[name][k]) for k in values))
            span.setdefault(name, []).extend(values.values())
    first = queries[0][0]
    query = [first[0], first[1], first[-1]] if first[0] == "match" else first
    json_option = [] if first[0] == "embed" else ["--json"]
    times = {"ours": [], "theirs": [], "load": []}
    peak = {"ours": 0.0, "theirs": 0.0}
    for _ in range(a.rounds):
        for who, command in [
            ("ours", [a.albef, *query, *options, *json_option]),
            ("theirs", [*itself, "query"]),
        ]:
            _, seconds, memory = run(command, a.work)
            times[who].append(seconds)
            peak[who] = max(peak[who], memory)
        times["load"].append(result()["load"])
    if not a.keep:
        file.unlink()
    ours, theirs, load = (statistics.median(times[who] or [0.0]) for who in ["ours", "theirs", "load"])
    differences = ", ".join(f"{name} {x:.1e}" for name, x in worst.items())
    print(f"| `{layout}` | {inspected['task']} | {size:.2f} GB | {differences} | {ours:.2f} s, {peak['ours']:.2f} GB "
          f"| {theirs:.1f} s ({load:.2f} s), {peak['theirs']:.2f} GB |", flush=True)
    for name, values in span.items():
        print(f"{layout}: {name}: {len(values)} values from {min(values):.4g} to {max(values):.4g}", file=sys.stderr)
    return max(worst.values()) <= a.tolerance


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layouts", nargs="*", metavar="LAYOUT", help=f"of {', '.join(LAYOUTS)}")
    for family in FAMILIES:
        parser.add_argument(f"--{family}", type=pathlib.Path, help="checkout of its repository")
    parser.add_argument("--vocab", type=pathlib.Path, required=True, help="vocab.txt of bert-base-uncased")
    parser.add_argument("--albef", default="albef", help="the program")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("layouts"), help="folder for files of up to 2 GB")
    parser.add_argument("--rounds", type=int, default=3, help="runs of either program that are timed")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--keep", action="store_true", help="do not delete the checkpoints")
    parser.add_argument("--child", choices=["make", "query"], help=argparse.SUPPRESS)
    parser.add_argument("--layout", help=argparse.SUPPRESS)
    a = parser.parse_args()
    a.work = a.work.resolve()
    if a.child:
        with contextlib.redirect_stdout(sys.stderr):
            child(a, a.layout)
        return 0
    a.work.mkdir(parents=True, exist_ok=True)
    pictures(a.work / "images")
    (a.work / "answers.json").write_text(json.dumps(ANSWERS))
    unknown = sorted(set(a.layouts) - set(LAYOUTS))
    if unknown:
        parser.error(f"unknown layouts: {', '.join(unknown)}")
    print("| Layout | Task | File | Largest difference | `albef`: one query | original: one query (load alone) |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    chosen = a.layouts or [name for name in LAYOUTS if getattr(a, name.split("-")[0])]
    return 0 if all([check(a, layout) for layout in chosen]) else 1


if __name__ == "__main__":
    sys.exit(main())

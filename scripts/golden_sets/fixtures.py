"""Golden sets as files: weights, fixtures with their inputs and expected values, tolerances and comparison."""

import contextlib
import dataclasses
import io
import json
import math
import re
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import official

FORWARD = {"mode": "elementwise", "abs": 2e-5, "rel": 2e-4}
EXACT = {"mode": "exact"}
STEP = {
    "mode": "mixed", "default": FORWARD, "losses": {"mode": "elementwise", "abs": 2e-5, "rel": 2e-5},
    "grads": {"mode": "tensor_max", "abs": 2e-6, "rel": 5e-4},
    "checksums": {"mode": "elementwise", "abs": 1e-4, "rel": 1e-5},
    "exact": ["idx_queue", "queue_ptr", "labels", "topk_ids", "masked_input_ids", "mlm_labels", "itm_labels"],
}  # fmt: skip
KINDS = {}


@dataclasses.dataclass
class Fixture:
    """One fixture: `given` are the files that it has before its expected values are computed, by their ends."""

    name: str
    kind: str
    given: dict = dataclasses.field(default_factory=dict)
    params: dict | None = None
    rule: str | None = None  # by which the pre-training model becomes that of a task
    tolerance: dict | None = None
    files: list = dataclasses.field(default_factory=list)  # further ones, of the manifest

    @property
    def inputs(self) -> dict[str, Tensor]:
        return self.given["inputs.safetensors"]


def kind(tolerance: dict):
    """Registers what computes the files of a kind, by their ends, from a set and a fixture."""

    def register(compute):
        KINDS[compute.__name__] = compute
        compute.tolerance = tolerance
        return compute

    return register


class Golden:
    """A set in a folder. In double precision it tells how far single precision is from what is right."""

    def __init__(self, folder: Path, config: dict, vocabulary: dict, dtype=torch.float32):
        self.folder, self.config, self.vocabulary, self.dtype = folder, config, vocabulary, dtype
        self.fusion_layer = config["text"]["fusion_layer"]
        self.weights, self.heads = {}, {}
        if (folder / "model/model.safetensors").exists():
            self.weights, self.heads = (load_file(folder / f"model/{n}.safetensors") for n in ["model", "heads"])

    def tokenizer(self, which: str = "tiny"):
        """The official one, with special tokens as they are after a download."""
        tokenizer = official.module("models.tokenization_bert").BertTokenizer(str(self.folder / self.vocabulary[which]))
        tokenizer.sanitize_special_tokens()
        return tokenizer

    def model(self, rule: str, **options) -> nn.Module:
        """The official model of a task with the weights of the set."""
        model = official.build(self.config, rule, **options)
        if missing := official.load(model, self.weights, self.heads, rule, self.fusion_layer):
            raise ValueError(f"{self.folder}: no weights for {missing} of {rule}")
        return model.to(self.dtype)

    def compute(self, fixture: Fixture) -> dict:
        if self.dtype != torch.float32 and "inputs.safetensors" in fixture.given:
            wide = {n: t.to(self.dtype) if t.is_floating_point() else t for n, t in fixture.inputs.items()}
            fixture = dataclasses.replace(fixture, given={**fixture.given, "inputs.safetensors": wide})
        with contextlib.ExitStack() as stack:
            for quiet in [contextlib.redirect_stdout, contextlib.redirect_stderr]:  # the official code tells a lot
                stack.enter_context(quiet(io.StringIO()))
            stack.enter_context(warnings.catch_warnings(action="ignore"))
            stack.enter_context(official.default_type(self.dtype))
            return KINDS[fixture.kind](self, fixture)


def plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As they are stored: apart from each other, in single precision."""
    kept = {n: t.detach().clone().contiguous() for n, t in tensors.items()}
    return {n: t.float() if t.is_floating_point() else t.long() for n, t in kept.items()}


def write(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(plain(content), path)
    elif path.suffix == ".png":
        Image.fromarray(content.numpy()).save(path)
    else:
        path.write_text(json.dumps(content, ensure_ascii=True) + "\n")


def read(path: Path):
    if path.suffix == ".png":
        return torch.from_numpy(np.array(Image.open(path)))
    return load_file(path) if path.suffix == ".safetensors" else json.loads(path.read_text())


def entry(golden: Golden, fixture: Fixture, expected: dict) -> dict:
    """Writes a fixture; its entry of the manifest."""
    files = list(fixture.files)
    for name in {**fixture.given, **expected}:
        write(golden.folder / fixture.name / name, expected.get(name, fixture.given.get(name)))
        roles = ["input"] * (name in fixture.given) + ["expected"] * (name in expected and name != "inputs.safetensors")
        files.append({"path": f"{fixture.name}/{name}", "role": " and ".join(roles), "type": name.rsplit(".")[-1]})
    compute = KINDS[fixture.kind]
    out = {"name": fixture.name, "kind": fixture.kind, "what": compute.__doc__}
    if fixture.rule:
        out["weights"] = {"file": "model/model.safetensors", "rule": fixture.rule, "extra": "model/heads.safetensors"}
    return {**out, "params": fixture.params, "files": files, "tolerance": fixture.tolerance or compute.tolerance}


def flat(value, name: str = ""):
    """Numbers and other values of a file, by name; of JSON below the names of the members."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from flat(inner, f"{name}.{i}")
    else:
        yield name, value


def rule_of(tolerance: dict, name: str) -> dict:
    if tolerance["mode"] == "exact" or name in tolerance.get("exact", []):
        return EXACT
    for override in tolerance.get("overrides", []):
        if re.search(override["match"], name):
            return override
    parts = {"loss": "losses", "grad": "grads", "checksum": "checksums"}
    part = next((part for start, part in parts.items() if name.startswith(start)), "default")
    return tolerance.get(part) or tolerance.get("default") or tolerance


def excess(rule: dict, got: Tensor, want: Tensor) -> float:
    """The largest error in parts of what is allowed; 0 if all are equal."""
    if got.shape != want.shape:
        return float("inf")
    error, scale = (got.double() - want.double()).abs(), want.double().abs()
    if rule["mode"] == "exact" or not error.numel():
        return float("inf") if error.any() else 0.0
    allowed = rule["abs"] + rule["rel"] * (scale.max() if rule["mode"] == "tensor_max" else scale)
    parts = torch.where(error == 0, 0.0, error / allowed).nan_to_num(nan=math.inf)
    if let_off := rule.get("outliers"):
        few = max(1, math.ceil(let_off["max_share"] * error.numel()))
        outside = (parts > 1) & (error <= let_off["abs"])
        parts = parts[~outside] if outside.sum() <= few else parts
    return parts.max().item() if parts.numel() else 0.0


def difference(tolerance: dict, end: str, got, want) -> tuple[float, str]:
    """The worst of a file, in parts of what is allowed, and where it is."""
    worst = (0.0, "")
    if end == "momentum_checksums.json":
        pairs = lambda sums: {f"checksum.{n}": torch.tensor(v, dtype=torch.float64) for n, v in sums.items()}
        got, want = pairs(got), pairs(want)
    found = dict(flat(got))
    for name, value in flat(want):
        rule = rule_of(tolerance, name)
        if name not in found:
            error = float("inf")
        elif isinstance(value, (str, bool, type(None))):
            error = 0.0 if found[name] == value else float("inf")
        else:
            error = excess(rule, torch.as_tensor(found[name]), torch.as_tensor(value))
        worst = max(worst, (error, name))
    return worst

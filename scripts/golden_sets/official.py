"""The official ALBEF code at any size: its classes and functions are imported from a checkout and not changed there.

The sizes that its classes have written out (768 wide, 12 blocks, six layers of a decoder, ...) are replaced where they
are used, chance is replaced by recorded draws, and intermediates are read from the variables of its functions.
"""

import contextlib
import functools
import importlib
import re
import sys
import types
from pathlib import Path

import torch
from torch import Tensor, nn

TASKS = ["pretrain", "retrieval", "vqa", "nlvr", "ta", "ve"]


def stub(name: str, **attributes) -> None:
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(attributes)


def start(root: Path) -> None:
    """Makes the modules of the checkout importable, with empty ones for what is not used."""
    import transformers.file_utils
    from transformers.modeling_utils import PreTrainedModel

    # It has other arguments now, and is only about documentation.
    transformers.file_utils.add_code_sample_docstrings = lambda *a, **other: lambda function: function
    PreTrainedModel.from_pretrained = classmethod(lambda cls, *a, config, **other: cls(config, **other))
    for name in ["ruamel_yaml", "refTools", "refTools.evaluation"]:
        stub(name)
    stub("refTools.evaluation.refEvaluation", RefEvaluation=None)
    stub("refTools.refer_python3", REFER=None)
    sys.path.insert(0, str(root))
    if not torch.distributed.is_initialized():  # queues gather the features of all processes
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)


def module(name: str):
    return importlib.import_module(name)


def bert_config(config: dict):
    from transformers import BertConfig

    text, fused = config["text"], config["text"]["layers"] - config["text"]["fusion_layer"]

    class Sizes(BertConfig):
        """Two models set the number of their layers: 18 for pairs of images, 6 for the decoder of answers."""

        own = {}

        def __setattr__(self, name, value):
            super().__setattr__(name, self.own.get(value, value) if name == "num_hidden_layers" else value)

    sizes = Sizes(
        hidden_size=text["hidden"], num_hidden_layers=text["layers"], num_attention_heads=text["heads"],
        intermediate_size=text["intermediate"], vocab_size=text["vocab_size"], hidden_act=text["hidden_act"],
        max_position_embeddings=text["max_position_embeddings"], type_vocab_size=text["type_vocab_size"],
        layer_norm_eps=text["layer_norm_eps"], pad_token_id=text["special_ids"]["pad"], hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, fusion_layer=text["fusion_layer"], encoder_width=config["vision"]["width"],
    )  # fmt: skip
    sizes.own = {18: text["fusion_layer"] + 2 * fused, 6: config["vqa"]["decoder_layers"]}
    return sizes


def build(config: dict, task: str, distill: bool = True, image_res: int | None = None) -> nn.Module:
    """The model of a task with the sizes of a set."""
    official = module(f"models.model_{'pretrain_nlvr' if task == 'ta' else task}")
    transformer, vision = module("models.vit").VisionTransformer, config["vision"]
    official.VisionTransformer = lambda img_size, **other: transformer(
        img_size, vision["patch"], embed_dim=vision["width"], depth=vision["depth"], num_heads=vision["heads"],
        mlp_ratio=vision["mlp_ratio"], norm_layer=functools.partial(nn.LayerNorm, eps=vision["layer_norm_eps"]),
    )  # fmt: skip
    official.BertConfig = types.SimpleNamespace(from_json_file=lambda file: bert_config(config))
    if task in ["ta", "nlvr"]:
        official.ALBEF.share_cross_attention = shared(official.ALBEF, config["text"]["fusion_layer"])
    options = {
        "image_res": image_res or vision["image_res"], "vision_width": vision["width"], "distill": distill,
        **{n: config[n] for n in ["embed_dim", "temp", "queue_size", "momentum", "mlm_probability"]}, "bert_config": "",
    }  # fmt: skip
    more = {"vqa": {"text_decoder": ""}, "pretrain": {"init_deit": False}}.get(task, {})
    return official.ALBEF(config=options, text_encoder="", tokenizer=token_ids(config), **more)


def token_ids(config: dict):
    """What a model asks its tokenizer for."""
    return types.SimpleNamespace(**{f"{name}_token_id": n for name, n in config["text"]["special_ids"].items()})


def shared(albef, fusion_layer: int):
    """The official method shares the cross-attention of six pairs from layer 6 on; there may be fewer, elsewhere."""
    share = albef.share_six = getattr(albef, "share_six", albef.share_cross_attention)

    def share_pairs(self, encoder):
        paired = encoder.layer[fusion_layer:]
        share(self, types.SimpleNamespace(layer={6 + i: paired[i % len(paired)] for i in range(12)}))

    return share_pairs


def renamed(key: str, rule: str, fusion_layer: int) -> list[str]:
    """What the script of a task makes of a key of a pre-training checkpoint."""
    bare, found = key.replace("bert.", ""), re.search(r"(.*encoder\.layer\.)(\d+)(\..*)", key)
    if rule == "pretrain" or not key.startswith("text_encoder"):
        return [key]
    layer = int(found[2]) - fusion_layer if found else None  # counted from the first with cross-attention
    if rule in ["ta", "nlvr"] and layer is not None and layer >= 0:
        lower = fusion_layer + 2 * layer
        return [f"{found[1]}{n}{found[3]}".replace("bert.", "") for n in [lower, lower + 1]]
    if rule == "vqa":
        in_decoder = (f"{found[1]}{layer}{found[3]}" if found else key).replace("text_encoder", "text_decoder")
        return [bare] * ("bert." in key) + [in_decoder] * (layer is None or layer >= 0)
    return [bare]


def load(model: nn.Module, weights: dict, heads: dict, rule: str, fusion_layer: int) -> list[str]:
    """Loads a pre-training checkpoint by the rule of a task, then the parts of `heads`; names what is still missing."""
    state = {name: tensor for key, tensor in weights.items() for name in renamed(key, rule, fusion_layer)}
    state |= {name.removeprefix(f"{rule}."): t for name, t in heads.items() if name.startswith(f"{rule}.")}
    known = model.state_dict()
    state = {name: tensor for name, tensor in state.items() if name in known}
    for table in [name for name in state if name.endswith("pos_embed")]:
        encoder = getattr(model, table.split(".")[0])
        state[table] = module("models.vit").interpolate_pos_embed(state[table], encoder)
    return model.load_state_dict(state, strict=False).missing_keys


@contextlib.contextmanager
def variables(function):
    """The variables of an official function when it returned."""
    seen, code = {}, getattr(function, "__wrapped__", function).__code__

    def on_return(frame, event, _):
        if event == "return" and frame.f_code is code:
            seen.update(frame.f_locals)

    sys.setprofile(on_return)
    try:
        yield seen
    finally:
        sys.setprofile(None)


@contextlib.contextmanager
def replaced(owner, **attributes):
    before = {name: getattr(owner, name) for name in attributes}
    for name, value in attributes.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


@contextlib.contextmanager
def default_type(dtype: torch.dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class Draws:
    """Recorded uniform numbers in place of chance, in the order in which the official code asks for them."""

    def __init__(self, index=(), uniform=(), numbers=(), integers=()):
        """Of draws by weight, Bernoulli draws (tensors), `torch.rand`, and `torch.randint` (tensors)."""
        self.index, self.uniform, self.numbers, self.integers = map(iter, (index, uniform, numbers, integers))
        self.drawn: list[list[int]] = []

    def multinomial(self, weights: Tensor, count: int) -> Tensor:
        """By the inverse of the cumulative weights, without replacement."""
        left, found = weights.detach().double().clone(), []
        for _ in range(count):
            cumulative = left.cumsum(0) / left.sum()
            found.append(int((cumulative > float(next(self.index))).nonzero()[0]))
            left[found[-1]] = 0
        self.drawn.append(found)
        return torch.tensor(found)

    def replaced(self):
        return replaced(
            torch, multinomial=self.multinomial, bernoulli=lambda p: (next(self.uniform) < p).to(p.dtype),
            rand=lambda *size: torch.tensor([float(next(self.numbers))]),
            randint=lambda *a, **other: next(self.integers),
        )  # fmt: skip

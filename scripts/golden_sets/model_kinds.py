"""Kinds of fixtures that need a model: what the official classes compute from given inputs, draws and weights."""

import functools
import inspect
import re
import types

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import official
from fixtures import FORWARD, STEP, Fixture, Golden, kind

# Parameters of which a step or a trajectory tells more than sums.
SOME_MOMENTUM = r"_proj_m|_m\.(bert\.embeddings\.Layer|cls\.predictions\.bias|blocks\.1\.attn|pos_embed)"
SOME_MOMENTS = r"^temp$|itm_head|_proj\.|pos_embed|norm1\.weight|transform\.dense|crossattention\.self\.value"
# Variables of the official steps with pairs, and more of pre-training.
PAIRS = "image_feat text_feat image_feat_m text_feat_m sim_i2t sim_t2i sim_targets weights_i2t weights_t2i vl_output"
PRETRAIN = "image_embeds image_embeds_m text_embeds sim_i2t_m sim_t2i_m loss_i2t loss_t2i loss_mlm itm_labels"
TARGETS = ["sim_i2t_targets", "sim_t2i_targets"]


def text(inputs: dict, ids: str = "input_ids", mask: str = "attention_mask"):
    return types.SimpleNamespace(input_ids=inputs[ids], attention_mask=inputs[mask])


def ones(states: Tensor) -> Tensor:
    return torch.ones(states.shape[:-1], dtype=torch.long)


def kept(modules: dict[str, nn.Module]) -> dict[str, Tensor]:
    """What modules return from now on, by the names given to them."""
    seen = {}
    for name, part in modules.items():
        part.register_forward_hook(lambda module, given, output, name=name: seen.update({name: output}))
    return seen


@kind(FORWARD)
def vit(golden: Golden, fixture: Fixture) -> dict:
    """image encoder: embedding, every block, attention map of one block, final layer norm; the table, where resized."""
    size, block, prefix = (fixture.params[n] for n in ["image_res", "attention_block", "prefix"])
    encoder = getattr(golden.model("pretrain", image_res=size), prefix.rstrip(".")).requires_grad_()
    seen = kept({"embedding": encoder.pos_drop, **{f"block.{i}": part for i, part in enumerate(encoder.blocks)}})
    seen["last_hidden"] = encoder(fixture.inputs["image"], register_blk=block)
    seen[f"attention.{block}"] = encoder.blocks[block].attn.get_attention_map()
    if size != golden.config["vision"]["image_res"]:
        seen["pos_embed"] = encoder.pos_embed
    return {"expected.safetensors": seen}


WATCHED = {"output_hidden_states": True, "output_attentions": True, "return_dict": True}


def cross_attention(bert: nn.Module, layer: int):
    """That of a layer, if it has one; it keeps its probabilities from now on."""
    cross = getattr(bert.encoder.layer[layer], "crossattention", None)
    if cross:
        cross.self.save_attention = True
    return cross and cross.self


def attended(output, cross, layer: int, first: int) -> dict:
    """Hidden states, and attention probabilities of one layer."""
    out = {f"hidden.{i}": states for i, states in enumerate(output.hidden_states)}
    out[f"attention.{layer}"] = output.attentions[layer - first]
    return {**out, f"cross_attention.{layer}": cross.get_attention_map()} if cross else out


@kind(FORWARD)
def bert(golden: Golden, fixture: Fixture) -> dict:
    """text encoder in one mode: hidden.0 goes into the first layer run; attention probabilities of one layer."""
    params, given = fixture.params, fixture.inputs
    encoder = getattr(golden.model("pretrain"), params["prefix"].split(".")[0]).bert.requires_grad_()
    layer, first = params["attention_layer"], golden.fusion_layer if params["mode"] == "fusion" else 0
    names = {
        "input_ids": "input_ids", "encoder_embeds": "encoder_embeds", "attention_mask": "attention_mask",
        "encoder_hidden_states": "image_embeds", "encoder_attention_mask": "image_mask",
    }  # fmt: skip
    options = {option: given[name] for option, name in names.items() if name in given}
    cross = cross_attention(encoder, layer)
    output = encoder(**options, mode=params["mode"], **WATCHED)
    found = attended(output, cross, layer, first)
    return {"expected.safetensors": {**found, "last_hidden": output.last_hidden_state}}


@kind(FORWARD)
def bert_decoder(golden: Golden, fixture: Fixture) -> dict:
    """answer decoder, causal and padding mask together: hidden states, logits, loss per row."""
    decoder, given, layer = golden.model("vqa").text_decoder, fixture.inputs, fixture.params["attention_layer"]
    cross = cross_attention(decoder.bert, layer)
    output = decoder(
        given["input_ids"], given["attention_mask"], encoder_hidden_states=given["encoder_states"],
        encoder_attention_mask=given["encoder_mask"], labels=given["labels"], reduction="none", **WATCHED,
    )  # fmt: skip
    found = attended(output, cross, layer, 0)
    return {"expected.safetensors": {**found, "logits": output.logits, "loss": output.loss}}


@kind(FORWARD)
def projections(golden: Golden, fixture: Fixture) -> dict:
    """unit-norm features, similarities, matching logits of every pair, word logits at masked positions."""
    model, given = golden.model("pretrain"), fixture.inputs
    image, mask = model.visual_encoder(given["image"]), given["attention_mask"]
    states = model.text_encoder.bert(given["input_ids"], mask, return_dict=True, mode="text").last_hidden_state
    image_feat = F.normalize(model.vision_proj(image[:, 0]), dim=-1)
    text_feat = F.normalize(model.text_proj(states[:, 0]), dim=-1)
    sim, of_image, of_text = image_feat @ text_feat.T, given["pair_image"], given["pair_text"]
    context = {"encoder_hidden_states": image[of_image], "encoder_attention_mask": ones(image[of_image])}
    pairs = {"encoder_embeds": states[of_text], "attention_mask": mask[of_text], **context}
    fused = model.text_encoder.bert(**pairs, return_dict=True, mode="fusion").last_hidden_state
    context = {"encoder_hidden_states": image, "encoder_attention_mask": ones(image)}
    words = model.text_encoder(given["masked_input_ids"], mask, **context, return_dict=True, return_logits=True)
    return {"expected.safetensors": {
        "image_feat": image_feat, "text_feat": text_feat, "sim": sim, "sim_over_temp": sim / model.temp,
        "itm_logits": model.itm_head(fused[:, 0]), "mlm_logits": words[given["mlm_row"], given["mlm_position"]],
    }}  # fmt: skip


def checksums(model: nn.Module) -> dict:
    momentum = {n: p.double() for n, p in model.named_parameters() if n.split(".")[0].endswith("_m")}
    return {"momentum_checksums.json": {n: [p.sum().item(), p.norm().item()] for n, p in momentum.items()}}


def stepped(model: nn.Module, loss: Tensor, fixture: Fixture, expected: dict, with_norms: bool = True) -> dict:
    """Gradients of a step beside its other values; the fixture lists the parameters that have one."""
    loss.backward()
    trained = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    grads = {n: g for n, g in trained.items() if g is not None}
    if with_norms:
        names = fixture.params.setdefault("grad_names", list(grads))
        fixture.params.setdefault("no_gradient", [n for n in trained if n not in grads])
        expected["grad_norms"] = torch.stack([grads[n].double().norm() for n in names])
    return {"expected.safetensors": expected, "grads.safetensors": {f"grad.{n}": g for n, g in grads.items()}}


def draws(given: dict) -> official.Draws:
    """Those of a step with pairs: indices of negatives, then those of masking."""
    masking = [given[n] for n in ["u_mask", "u_replace", "u_random"] if n in given]
    words = [given["random_words"]] if "random_words" in given else []
    return official.Draws([*given["u_negative_image"], *given["u_negative_text"]], masking, integers=words)


def negatives(drawn: official.Draws) -> dict:
    index = torch.tensor(drawn.drawn).flatten()
    return dict(zip(["negative_image", "negative_text"], index.split(len(index) // 2)))


@kind(STEP)
def pretrain_step(golden: Golden, fixture: Fixture) -> dict:
    """pre-training forward and backward on mlm + ita + itm, all draws given; state after the step."""
    model, given, drawn = golden.model("pretrain").train(), fixture.inputs, draws(fixture.inputs)
    model.momentum = fixture.params["momentum"]
    with official.variables(type(model).forward) as seen, drawn.replaced():
        loss = sum(model(given["image"], text(given), alpha=fixture.params["alpha"]))
    chosen = seen["labels"] != -100
    expected = {n: seen[n] for n in [*PAIRS.split(), *PRETRAIN.split(), *TARGETS, "loss_ita", "loss_itm"]}
    expected |= {"loss": loss, "masked_input_ids": seen["input_ids"], "mlm_labels": seen["labels"]}
    expected |= {"mlm_logits": seen["mlm_output"].logits[chosen], "mlm_logits_m": seen["logits_m"][chosen]}
    expected |= {n: getattr(model, n) for n in ["image_queue", "text_queue", "queue_ptr"]}
    expected |= {f"momentum.{n}": p for n, p in model.named_parameters() if re.search(SOME_MOMENTUM, n)}
    expected = {n: t.detach().clone() for n, t in expected.items()} | {"loss": loss}
    out = stepped(model, loss, fixture, expected, with_norms=False)
    return {**out, **checksums(model), "inputs.safetensors": {**given, **negatives(drawn)}}


@kind(STEP)
def retrieval_train(golden: Golden, fixture: Fixture) -> dict:
    """retrieval fine-tuning forward and backward on ita + itm; image ids repeat in the batch and the queue."""
    params, given, drawn = fixture.params, fixture.inputs, draws(fixture.inputs)
    model = golden.model("retrieval", distill=params["distill"]).train()
    model.momentum = params["momentum"]
    with official.variables(type(model).forward) as seen, drawn.replaced():
        loss = sum(model(given["image"], text(given), params["alpha"], given["idx"]))
    names = [*PAIRS.split(), "loss_ita", "loss_itm", *(TARGETS if params["distill"] else [])]
    expected = {n: seen[n] for n in names}
    expected |= {n: getattr(model, n) for n in ["image_queue", "text_queue", "idx_queue", "queue_ptr"]}
    out = stepped(model, loss, fixture, expected)
    return {**out, **checksums(model), "inputs.safetensors": {**given, **negatives(drawn)}}


def classified(golden: Golden, fixture: Fixture, rule: str) -> dict:
    params, given = fixture.params, fixture.inputs
    model = golden.model(rule, distill=params["distill"])
    model.momentum = params["momentum"]
    arguments = given["image"], text(given), given["targets"]
    with torch.no_grad():
        eval_logits = model.eval()(*arguments, train=False)
    with official.variables(type(model).forward) as seen:
        loss = model.train()(*arguments, alpha=params["alpha"])
    expected = {n: seen[n] for n in ["prediction", "prediction_m"] if n in seen}
    out = stepped(model, loss, fixture, {"loss": loss, "eval_logits": eval_logits, **expected})
    return {**out, **(checksums(model) if params["distill"] else {})}


@kind(STEP)
def ve_train(golden: Golden, fixture: Fixture) -> dict:
    """visual entailment: three-way classifier on the first state; eval_logits from the stored weights."""
    return classified(golden, fixture, "ve")


@kind(STEP)
def nlvr_train(golden: Golden, fixture: Fixture) -> dict:
    """two-image classifier: all first images, then all second ones; layers share key and value in pairs."""
    return classified(golden, fixture, "nlvr")


@kind(STEP)
def ta_step(golden: Golden, fixture: Fixture) -> dict:
    """text assignment: a text with its own image and another (first: 0, second: 1), or with two others (2)."""
    model, given = golden.model("ta").train(), fixture.inputs
    own = given["u_other"] > 1 / 3
    index = [u for row, one in zip(given["u_index"], own) for u in (row[:1] if one else row)]
    numbers = [u for i, one in enumerate(own) for u in [given["u_other"][i], given["u_order"][i]][: 1 + one]]
    drawn = official.Draws(index, numbers=numbers)
    with official.variables(type(model).forward) as seen, drawn.replaced():
        loss = model(given["image"], text(given))
    expected = {n: seen[n] for n in ["labels", "pred", "weights"]} | {"loss": loss}
    found = torch.tensor([[*row, -1][:2] for row in drawn.drawn])
    return {**stepped(model, loss, fixture, expected), "inputs.safetensors": {**given, "index": found}}


@kind(STEP)
def vqa_train(golden: Golden, fixture: Fixture) -> dict:
    """VQA fine-tuning: question states repeated per answer, causal decoder, weighted loss per answer."""
    params, given = fixture.params, fixture.inputs
    model = golden.model("vqa", distill=params["distill"]).train()
    model.momentum = params["momentum"]
    question, answer = (text(given, f"{n}_ids", f"{n}_mask") for n in ["question", "answer"])
    with official.variables(type(model).forward) as seen:
        options = {"k": params["answers_per_question"], "weights": given["weights"], "alpha": params["alpha"]}
        loss = model(given["image"], question, answer, **options)
    expected = {"loss": loss, "question_states": seen["question_output"].last_hidden_state}
    expected |= {"answer_loss": seen["answer_output"].loss, "logits": seen["answer_output"].logits}
    expected |= {n: seen[n] for n in ["logits_m"] if n in seen}
    return {**stepped(model, loss, fixture, expected), **(checksums(model) if params["distill"] else {})}


def smallest_gap(scores: Tensor, k: int) -> float:
    """Of the k best of each row and the next."""
    best = scores.sort(-1, descending=True).values[:, : k + 1]
    return (best[:, :-1] - best[:, 1:]).min().item() if best.shape[1] > 1 else 1.0


@kind({**STEP, "note": "candidate_log_prob is in the order in which candidates were picked; compare as sets"})
def vqa_rank(golden: Golden, fixture: Fixture) -> dict:
    """answer ranking: the first token picks k answers, log-probabilities with it counted twice rank them."""
    model, given, listed = golden.model("vqa").eval(), fixture.inputs, fixture.given["answers.json"]
    question, answer = (text(given, f"{n}_ids", f"{n}_mask") for n in ["question", "answer"])
    with torch.no_grad(), official.variables(type(model).rank_answer) as seen:
        ids, probabilities = model(given["image"], question, answer, train=False, k=fixture.params["k"])
    gaps = [smallest_gap(seen[n], fixture.params["k"]) for n in ["prob_first_token", "log_probs_sum"]]
    fixture.params["smallest_gap"] = min(1e3 * gaps[0], gaps[1])  # probabilities are small, and so are their errors
    return {
        "expected.safetensors": {
            "topk_ids": ids, "topk_probs": probabilities, "prob_first_token": seen["prob_first_token"],
            "candidate_log_prob": seen["log_probs_sum"],
        },
        "answers.json": {**listed, "predicted": [listed["answers"][row[0]] for row in ids]},
    }  # fmt: skip


def optimizer_of(model: nn.Module, plan: dict):
    """Optimizer and scheduler as the scripts make them."""
    options = official.module("utils").AttrDict
    optimizer = official.module("optim").create_optimizer(options(plan["optimizer"]), model)
    return optimizer, official.module("scheduler").create_scheduler(options(plan["scheduler"]), optimizer)[0]


@kind({})
def trajectory(golden: Golden, fixture: Fixture) -> dict:
    """optimizer steps of pre-training: warm-up stepped after every step of the first epoch, then by epoch."""
    plan, given, model = fixture.given["steps.json"], fixture.inputs, golden.model("pretrain").train()
    optimizer, scheduler = optimizer_of(model, plan)
    warmup, steps, found = plan["scheduler"]["warmup_epochs"], [], dict(given)
    for i, step in enumerate(plan["steps"]):
        step = {"step": i, "epoch": step["epoch"], "alpha": step["alpha"]}
        step |= {"scheduler_step_before": None, "scheduler_step_after": None}
        if step["epoch"] > 0 and step["epoch"] != steps[-1]["epoch"]:
            step["scheduler_step_before"] = step["epoch"] + warmup
            scheduler.step(step["scheduler_step_before"])
        own = {n.removeprefix(f"step{i}."): t for n, t in given.items() if n.startswith(f"step{i}.")}
        drawn, rate = draws(own), optimizer.param_groups[0]["lr"]
        image = given[f"step{fixture.params['image_of_step'][i]}.image"]
        optimizer.zero_grad()
        with drawn.replaced():
            losses = model(image, text(own), alpha=step["alpha"])
        sum(losses).backward()
        optimizer.step()
        if step["epoch"] == 0 and i <= warmup:
            step["scheduler_step_after"] = i
            scheduler.step(i)
        values = zip(["loss_mlm", "loss_ita", "loss_itm"], (loss.item() for loss in losses))
        step |= {"lr_used": rate, **dict(values)}
        step |= {"temp_after": model.temp.item(), "queue_ptr_after": model.queue_ptr.item()}
        found |= {f"step{i}.{n}": t for n, t in negatives(drawn).items()}
        steps.append(step)
    expected = {f"param.{n}": p for n, p in model.named_parameters()}
    for name, p in model.named_parameters():
        if p in optimizer.state and re.search(SOME_MOMENTS, name):
            expected |= {f"{m}.{name}": optimizer.state[p][m] for m in ["exp_avg", "exp_avg_sq"]}
    expected |= {n: getattr(model, n) for n in ["image_queue", "text_queue", "queue_ptr"]}
    out = {"expected.safetensors": expected, "steps.json": {**plan, "steps": steps}, **checksums(model)}
    return {**out, "inputs.safetensors": found}


@functools.cache
def maps_of(heads: int, grid: int):
    """The official function of maps, in whose text 12 heads and 24 cells a side are written out."""
    grounding = official.module("Grounding")
    source = inspect.getsource(grounding.val).replace(" 12,", f" {heads},").replace("24, 24", f"{grid}, {grid}")
    names = dict(vars(grounding))
    exec(compile(source, "Grounding.val", "exec"), names)
    return names["val"]


@kind({
    "mode": "mixed", "default": FORWARD,
    "overrides": [
        {"match": "^(map|map_per_token|attention_gradient)$", "mode": "tensor_max", "abs": 1e-8, "rel": 5e-4},
    ],
})  # fmt: skip
def gradcam(golden: Golden, fixture: Fixture) -> dict:
    """Grad-CAM of the matching score at a text layer, or of the contrastive score at an image block."""
    params, given, model = fixture.params, fixture.inputs, golden.model("retrieval")
    mode, layer, vision = params["mode"], params["layer"], golden.config["vision"]
    heads = golden.config["text"]["heads"] if mode == "itm" else vision["heads"]
    val = maps_of(heads, vision["image_res"] // vision["patch"])
    tokens = text(given)
    tokens.to = lambda device: tokens
    batch = (given["image"], None, torch.arange(len(given["image"])))
    with official.variables(val) as seen:
        found = val(model, [batch], lambda *a, **other: tokens, "cpu", mode, layer)
    out = {"map": torch.stack([one["pred"] for one in found])}
    if mode == "itm":
        attention = model.text_encoder.encoder.layer[layer].crossattention.self
        out |= {"itm_logits": seen["vl_output"], "map_per_token": (seen["cams"] * seen["grads"]).mean(1)}
    else:
        attention = model.visual_encoder.blocks[layer].attn
        out |= {"sim": seen["sim"]}
    out |= {"attention": attention.get_attention_map(), "attention_gradient": attention.get_attn_gradients()}
    return {"expected.safetensors": out}


class Loader(list):
    """Batches; the evaluation looks for texts and the number of images in its `dataset`."""


@kind({
    "mode": "mixed", "default": FORWARD,
    "exact": ["input_ids", "attention_mask", *(f"k{k}.topk_{d}" for k in range(11) for d in ["i2t", "t2i"])],
})  # fmt: skip
def retrieval_eval(golden: Golden, fixture: Fixture) -> dict:
    """evaluation on a small gallery: features, similarities, the k best of each re-scored, recalls."""
    gallery, params, model = fixture.given["gallery.json"], fixture.params, golden.model("retrieval")
    retrieval, cleaned = official.module("Retrieval"), official.module("dataset.utils").pre_caption
    texts, txt2img, img2txt = [], [], []
    for image, item in enumerate(gallery):
        img2txt.append(list(range(len(texts), len(texts) + len(item["caption"]))))
        txt2img += [image] * len(item["caption"])
        texts += [cleaned(caption, params["max_words"]) for caption in item["caption"]]
    folder, read = golden.folder / fixture.name, transform(golden.config["vision"]["image_res"])
    pixels = torch.stack([read(Image.open(folder / item["image"]).convert("RGB")) for item in gallery])
    loader = Loader([(pixels.to(golden.dtype), None)])
    loader.dataset = types.SimpleNamespace(text=texts, image=gallery)
    retrieval.args = types.SimpleNamespace(distributed=False)
    tokens = golden.tokenizer()(texts, padding="max_length", truncation=True, max_length=30, return_tensors="pt")
    tensors = {"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask}
    listed = {"texts": texts, "img2txt": img2txt, "txt2img": txt2img}
    for k in params["k_test"]:
        with official.variables(retrieval.evaluation) as seen:
            scores = retrieval.evaluation(model, loader, golden.tokenizer(), "cpu", {"k_test": k})
        sims = seen["image_embeds"] @ seen["text_embeds"].T
        params["smallest_gap"] = min(smallest_gap(s, k) for s in [sims, sims.T])
        tensors |= {n: seen[n] for n in ["image_embeds", "text_embeds"]} | {"sims": sims}
        for name, score, rows in zip(["i2t", "t2i"], scores, [sims, sims.T]):
            tensors |= {f"k{k}.score_{name}": torch.as_tensor(score), f"k{k}.topk_{name}": rows.topk(k, 1).indices}
        metrics = retrieval.itm_eval(*scores, txt2img, img2txt)
        sure = metrics if k >= 10 else {n: v for n, v in metrics.items() if n.endswith("r1")}
        listed[f"metrics_k{k}"] = sure
    return {"expected.safetensors": tensors, "expected.json": listed}


@functools.cache
def transforms(size: int):
    """The official transforms of training and of tests."""
    dataset = official.module("dataset")
    files = dict.fromkeys(["train_file", "val_file", "test_file", "image_root"], "")
    with official.replaced(dataset, ve_dataset=lambda files, transform, root: transform):
        return dataset.create_dataset("ve", {"image_res": size, **files})[:2]


def transform(size: int):
    return transforms(size)[1]

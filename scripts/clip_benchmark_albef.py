#!/usr/bin/env python3
"""Evaluates models of this program with CLIP_benchmark (https://github.com/LAION-AI/CLIP_benchmark).

    pip install clip_benchmark
    python scripts/clip_benchmark_albef.py eval --model models/mini --dataset cifar10 --dataset_root cifar10
    python scripts/clip_benchmark_albef.py pack LIST.json --image-root IMAGES --output packed
    python scripts/clip_benchmark_albef.py eval --model models/mini --dataset wds/mine --dataset_root packed \\
        --task zeroshot_retrieval --output mine.json

eval   registers the model type `albef` and runs `clip_benchmark eval`, to which all other options are passed on.
       Defaults that differ from its own: `--no_amp`, because half precision makes ties, `--num_workers 1`, because a
       worker without a shard fails, `--recall_k 1 5 10`, and `--pretrained ""`. Several models may be named.
pack   writes an annotation list as a retrieval data set for `--dataset wds/NAME --dataset_root FOLDER`

The features come from `albef serve`, which is started on a free loopback port and stopped at the end. With `--address`
a running service is asked instead (one without keys), and `--model` is the name of a model there. Images are decoded
and resized here, by Pillow, as in the official code: without Exif orientation, with the hidden color of transparent
pixels. PNG and WebP give the features of `albef embed --background official --no-exif-orientation`; JPEG decoders round
differently, so that features of JPEG images differ by up to about 1e-3.
"""

import argparse
import atexit
import base64
import http.client
import io
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import urllib.parse

import numpy as np
import torch
from PIL import Image

BUILT = pathlib.Path(__file__).resolve().parent.parent / "target" / "release" / "albef"
DEFAULTS = ["--pretrained", "", "--no_amp", "--num_workers", "1", "--recall_k", "1", "5", "10"]
IMAGES, TEXTS = 16, 64  # of a request; by default the service takes 64 items and 32 MiB


class AlbefError(Exception):
    pass


class Service:
    """A connection to `albef serve`, and the process if it was started here."""

    def __init__(self, program: str, model: str, address: "str | None" = None):
        self.process = None
        if address is None:
            command = [program, "serve", "--model", model, "--bind", "127.0.0.1:0", "--timeout", "600", "--quiet"]
            try:
                self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
            except OSError as error:
                raise AlbefError(f"cannot run {program}: {error.strerror}; name it with --program") from error
            atexit.register(self.close)
            address = self.process.stdout.readline().strip()
            if not address:
                raise AlbefError(f"`{' '.join(command)}` ended with code {self.process.wait()}")
        url = urllib.parse.urlsplit(address)
        if url.scheme != "http" or not url.netloc:
            raise AlbefError(f"`{address}` is not an address such as http://127.0.0.1:8080")
        self.host = url.netloc
        models = {each["id"]: each["image_res"] for each in self.ask("GET", "/v1/models")["data"]}
        self.model = next(iter(models)) if self.process else model
        if self.model not in models:
            raise AlbefError(f"{address} has no model `{model}`, only {', '.join(models)}")
        self.image_res = models[self.model]

    def ask(self, method: str, path: str, body: "dict | None" = None) -> dict:
        connection = http.client.HTTPConnection(self.host, timeout=900)
        try:
            connection.request(method, path, body and json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            found = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise AlbefError(f"no answer from {self.host}{path}: {error}") from error
        finally:
            connection.close()
        if response.status != 200:
            raise AlbefError(f"{path}: {response.status} {found.get('detail') or found.get('title')}")
        return found

    def embed(self, kind: str, items: list, size: int) -> torch.Tensor:
        rows = []
        for start in range(0, len(items), size):
            rows += self.ask("POST", "/v1/embed", {"model": self.model, kind: items[start : start + size]})[kind]
        return torch.tensor(rows, dtype=torch.float32)

    def close(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait()


class Transform:
    """The image in the size of the model, as bytes; the service normalizes them."""

    def __init__(self, image_res: int):
        self.size = (image_res, image_res)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        image = image.convert("RGB").resize(self.size, Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def tokenize(texts) -> torch.Tensor:
    """UTF-8 bytes, padded with zeros: CLIP_benchmark passes texts as tensors, the service tokenizes them."""
    rows = [text.encode() for text in ([texts] if isinstance(texts, str) else texts)]
    width = max(map(len, rows), default=0)
    return torch.tensor([list(row.ljust(width, b"\0")) for row in rows], dtype=torch.uint8)


class Model(torch.nn.Module):
    def __init__(self, service: Service):
        super().__init__()
        self.service = service

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        items = []
        for image in images.cpu().permute(0, 2, 3, 1).numpy():
            file = io.BytesIO()
            Image.fromarray(image).save(file, "PNG", compress_level=1)
            items.append({"base64": base64.b64encode(file.getvalue()).decode()})
        return self.service.embed("images", items, IMAGES).to(images.device)

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        texts = [bytes(row).rstrip(b"\0").decode() for row in tokens.cpu().tolist()]
        return self.service.embed("texts", texts, TEXTS).to(tokens.device)


def evaluate(a: argparse.Namespace, rest: list) -> int:
    from clip_benchmark import cli, models

    # CLIP_benchmark puts the name into that of the output file, so a path will not do.
    named = {(model if a.address else pathlib.Path(model).stem): model for model in a.model}
    if len(named) < len(a.model):
        raise AlbefError("two of the models have the same name")
    running: dict = {}

    def load(model_name: str, **_) -> tuple:
        if model_name not in running:
            while running:  # one at a time, for memory
                running.popitem()[1].close()
            running[model_name] = Service(a.program, named[model_name], a.address)
        service = running[model_name]
        return Model(service), Transform(service.image_res), tokenize

    models.TYPE2FUNC["albef"] = load
    models.MODEL_TYPES.append("albef")
    sys.argv = ["clip_benchmark", "eval", "--model_type", "albef", "--model", *named, *DEFAULTS, *rest]
    return cli.main() or 0


def pack(a: argparse.Namespace) -> int:
    (a.output / "test").mkdir(parents=True, exist_ok=True)
    with tarfile.open(a.output / "test" / "0.tar", "w") as tar:
        for number, item in enumerate(json.loads(a.list.read_text())):
            path = a.image_root / item["image"]
            suffix = path.suffix.lower()
            if suffix not in [".png", ".jpg", ".jpeg", ".webp"]:
                raise AlbefError(f"{path}: CLIP_benchmark reads PNG, JPEG and WebP only")
            captions = [item["caption"]] if isinstance(item["caption"], str) else item["caption"]
            tar.add(path, f"{number:07}{suffix}")
            text = "\n".join(" ".join(caption.split()) for caption in captions).encode()
            about = tarfile.TarInfo(f"{number:07}.txt")
            about.size = len(text)
            tar.addfile(about, io.BytesIO(text))
    (a.output / "test" / "nshards.txt").write_text("1")
    (a.output / "dataset_type.txt").write_text("retrieval")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("eval", help="run `clip_benchmark eval`", allow_abbrev=False)
    one.add_argument("--model", nargs="+", required=True, help="as for `albef serve`")
    one.add_argument("--program", default=shutil.which("albef") or str(BUILT), help="the program `albef`")
    one.add_argument("--address", help="address of a running service, such as http://127.0.0.1:8080")
    two = commands.add_parser("pack", help="write a retrieval data set for CLIP_benchmark")
    two.add_argument("list", type=pathlib.Path)
    two.add_argument("--image-root", type=pathlib.Path, default=pathlib.Path())
    two.add_argument("--output", type=pathlib.Path, required=True)
    a, rest = parser.parse_known_args() if sys.argv[1:2] == ["eval"] else (parser.parse_args(), [])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the service is stopped
    try:
        return evaluate(a, rest) if a.command == "eval" else pack(a)
    except (AlbefError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

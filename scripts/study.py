"""What the scripts that run experiments share: running the program, and keeping what is done."""
import json
import subprocess
import sys
from pathlib import Path

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
MINI = CONFIGS.parent / "models" / "mini" / "model.safetensors"


def run(*command, log):
    """The command's standard output; its standard error goes to the log. Ends the script if it fails."""
    command = [str(part) for part in command]
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a") as err:
        err.write(" ".join(command) + "\n")
        err.flush()
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=err, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"failed: {' '.join(command)}; see {log}")
    return done.stdout


def settings(values):
    """`--set key=value` for each entry of a dictionary or list."""
    if isinstance(values, dict):
        values = [f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in values.items()]
    return [part for value in values for part in ("--set", value)]


def kept(path, make):
    """The JSON of a file, made and written first if it is not there."""
    if not path.exists():
        found = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(found if isinstance(found, str) else json.dumps(found))
        part.rename(path)
    return json.loads(path.read_text())


def say(text):
    print(text, file=sys.stderr, flush=True)


def tensors(path):
    """The tensors of a safetensors file by name: what its header says of each, and its bytes."""
    content = Path(path).read_bytes()
    length = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:length])
    header.pop("__metadata__", None)
    return {name: (said, content[length + said["data_offsets"][0]:length + said["data_offsets"][1]]) for name, said in header.items()}


def safetensors(found):
    """The bytes of a safetensors file of these tensors."""
    header, at = {}, 0
    for name, (said, data) in found.items():
        header[name] = {**said, "data_offsets": [at, at + len(data)]}
        at += len(data)
    header = json.dumps(header).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + b"".join(data for _, data in found.values())


def image_side():
    """The image encoder of `models/mini` as a file of its own, with the names of a ViT."""
    prefix = "visual_encoder."
    return safetensors({name.removeprefix(prefix): t for name, t in tensors(MINI).items() if name.startswith(prefix)})

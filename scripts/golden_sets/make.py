#!/usr/bin/env python3
"""Golden sets of other sizes, computed by the classes of the official code, for `albef doctor --golden`.

    pip install torch==2.11 torchvision==0.26 transformers==4.25.1 safetensors
    pip install "numpy<2" "opencv-python-headless<4.11" pillow==13.0.0 && pip install --no-deps timm==0.4.12
    scripts/golden_sets/make.py --official ALBEF --check tests/golden
    OMP_NUM_THREADS=1 scripts/golden_sets/make.py --official ALBEF --output FOLDER --sets 27
    for set in FOLDER/*; do albef doctor --golden "$set"; done

ALBEF is a checkout of salesforce/ALBEF, which is imported and not changed. With --check the official code computes
every fixture of a given set from its inputs, and the worst difference of each is printed in parts of its tolerance;
exit code 1 if one is larger. With --output sets are made in the same format (`tests/golden/README.md`): widths, depths,
heads, patches, resolutions, fusion layers, vocabularies, special tokens, queues, batches, masks and all inputs are
drawn from the seed. A set takes about ten seconds of processor time and 15 to 130 MB. A fixture is left out, and named,
where single precision is further from double precision than half the tolerance (of trajectories many are), or two
candidates are too close to be told apart: it would say nothing about another program.

Python 3.11 has the Unicode tables (14) of the given set. The kind `odd_checkpoint`, which is about files of torch and
not about the method, is left out; so are masks of text with holes, which `albef` refuses.

`official.py` runs the official code at any size, `draws.py` draws sizes and inputs, `model_kinds.py` and
`data_kinds.py` compute what is expected with weights and without, and `fixtures.py` knows files and tolerances.
"""

import argparse
import logging
import sys
from pathlib import Path

import torch

import data_kinds  # noqa: F401 (registers its kinds)
import draws
import model_kinds  # noqa: F401
import official
from fixtures import EXACT, KINDS, Fixture, Golden, difference, entry, plain, read, write

VOCABULARY = {"tiny": "vocab.txt", "full": "vocab-bert-base-uncased.txt"}
GIVEN = Path(__file__).resolve().parents[2] / "tests/golden" / VOCABULARY["full"]
SOUND = 0.5  # of the tolerance: how far single precision may be from double precision
APART = 1e-6  # how far scores of candidates must be apart


def worst(tolerance: dict, got: dict, want: dict) -> tuple[float, str]:
    """The largest difference of the files of a fixture, in parts of what is allowed, and where it is."""
    found = (0.0, "")
    for end, content in want.items():
        rule = EXACT if end == "inputs.safetensors" else tolerance  # draws that became indices
        found = max(found, difference(rule, end, got.get(end, content if rule is EXACT else {}), content))
    return found


def stored(files: dict) -> dict:
    return {end: plain(content) if end.endswith(".safetensors") else content for end, content in files.items()}


def flaw(golden: Golden, double: Golden, fixture: Fixture, expected: dict) -> str | None:
    """Why a fixture says nothing about a program that computes it."""
    if not fixture.rule:
        return None
    tolerance = fixture.tolerance or KINDS[fixture.kind].tolerance
    part, where = worst(tolerance, stored(double.compute(fixture)), stored(expected))
    if part > SOUND:
        return f"single precision is off by {part:.2g} of the tolerance at {where}"
    gap = (fixture.params or {}).get("smallest_gap", 1.0)
    return f"two candidates are {gap:.1e} apart" if gap < APART else None


def make(folder: Path, seed: str, full: list[str]) -> tuple[int, list[str]]:
    """Draws and computes a set; the number of its fixtures, and those that are left out."""
    chance = draws.Chance(seed)
    config = draws.sizes(chance, folder.name)
    golden, double = (Golden(folder, config, VOCABULARY, dtype) for dtype in [torch.float32, torch.float64])
    write(folder / "config.json", config)
    for which, words in [("full", full), ("tiny", draws.vocabulary(chance, config, full))]:
        (folder / VOCABULARY[which]).write_text("\n".join(words) + "\n", encoding="utf-8")
    draws.weights(chance, golden)
    double.weights, double.heads = golden.weights, golden.heads
    write(folder / "model/heads.safetensors", golden.heads)
    for name in ["zip", "legacy"]:
        content = {"model": golden.weights, "config": {"image_res": config["vision"]["image_res"]}, "epoch": 1}
        torch.save(content, folder / f"model/model_{name}.pth", _use_new_zipfile_serialization=name == "zip")
    entries, left_out = [], []
    for fixture in draws.fixtures(draws.Inputs(chance, golden)):
        expected = golden.compute(fixture)
        if why := flaw(golden, double, fixture, expected):
            left_out.append(f"{fixture.name}: {why}")
        else:
            entries.append(entry(golden, fixture, expected))
    head = {"format": "albef-golden", "format_version": 1, "config": "config.json", "vocab": VOCABULARY}
    write(folder / "manifest.json", {**head, "fixtures": entries})
    return len(entries), left_out


def check(folder: Path) -> bool:
    """Whether the official code computes what a set expects."""
    manifest = read(folder / "manifest.json")
    golden, good = Golden(folder, read(folder / manifest["config"]), manifest["vocab"]), True
    for item in manifest["fixtures"]:
        if item["kind"] not in KINDS:
            print(f"left out  {item['name']}")
            continue
        given, expected = {}, {}
        for file in item["files"]:
            if file["type"] in ["safetensors", "json", "png"]:
                end, content = file["path"].split("/", 1)[1], read(folder / file["path"])
                # A plan may be part of what is expected; the indices of draws are part of the inputs.
                given |= {end: content} if "input" in file["role"] or file["type"] == "json" else {}
                expected |= {end: content} if "expected" in file["role"] or end == "inputs.safetensors" else {}
        fixture = Fixture(item["name"], item["kind"], given, item.get("params"))
        part, where = worst(item["tolerance"], stored(golden.compute(fixture)), expected)
        good &= part <= 1
        print(f"{'ok' if part <= 1 else 'FAILED':9} {item['name']:34} {part:.1e} of the tolerance, {where}", flush=True)
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path, required=True, help="checkout of salesforce/ALBEF")
    parser.add_argument("--check", type=Path, metavar="SET", help="compare the official code with this set")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="make sets there")
    parser.add_argument("--sets", type=int, default=27, help="how many (27)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (0)")
    parser.add_argument("--vocab", type=Path, default=GIVEN, help="vocab.txt of bert-base-uncased")
    a = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    official.start(a.official.resolve())
    good = check(a.check) if a.check else True
    full = a.vocab.read_text(encoding="utf-8").rstrip("\n").split("\n") if a.output else []
    for i in range(a.sets if a.output else 0):
        folder = a.output / f"set{i:02}"
        count, left_out = make(folder, f"{a.seed}.{i}", full)
        print(f"{folder}: {count} fixtures", *(f"left out {line}" for line in left_out), sep="\n    ", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""What deny.toml asks of every dependency, from `cargo metadata` alone: licences and sources.

For machines without cargo-deny, which takes longer to build than the program. Reads nothing but the manifests.
"""

import hashlib
import json
import pathlib
import re
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
# The end of the name of the one registry that cargo-deny takes as known without being told.
KNOWN = "/crates.io-index"

# Licences that a package names by a file only, by the file's SHA-256.
READ = {"408bbc4d10bdf74d8c9b74b64ea4910603257e24133da18edc4d16198e3b4010": "Apache-2.0"}


def named(package: dict) -> str | None:
    """The licence of a package, by its name or by its text."""
    if package["license"] or not package["license_file"]:
        return package["license"]
    text = pathlib.Path(package["manifest_path"]).parent / package["license_file"]
    return READ.get(hashlib.sha256(text.read_bytes()).hexdigest())


def allowed(expression: str, allow: set[str]) -> bool:
    """Whether an SPDX expression can be met with allowed licences; `MIT/Apache-2.0` is the old way to write OR."""
    words = re.findall(r"[()]|[^\s()]+", expression.replace("/", " OR "))
    at = 0

    def one() -> bool:
        nonlocal at
        word, at = words[at], at + 1
        if word == "(":
            value = either()
            if words[at] != ")":
                raise ValueError(expression)
            at += 1
            return value
        if at < len(words) and words[at] == "WITH":
            word, at = f"{word} WITH {words[at + 1]}", at + 2
        return word in allow

    def both() -> bool:
        nonlocal at
        value = one()
        while at < len(words) and words[at] == "AND":
            at += 1
            value = one() and value
        return value

    def either() -> bool:
        nonlocal at
        value = both()
        while at < len(words) and words[at] == "OR":
            at += 1
            value = both() or value
        return value

    value = either()
    if at != len(words):
        raise ValueError(expression)
    return value


def main() -> int:
    rules = tomllib.loads((ROOT / "deny.toml").read_text())
    understood = {
        "licenses": {"allow"},
        "bans": {"multiple-versions", "wildcards"},
        "sources": {"unknown-registry", "unknown-git"},
    }
    for table, keys in rules.items():
        if strange := set(keys) - understood.get(table, set()):
            sys.exit(f"deny.toml: {table} has {', '.join(sorted(strange))}, which this script does not know")
    if set(rules["bans"].values()) != {"allow"} or set(rules["sources"].values()) != {"deny"}:
        sys.exit("deny.toml: this script knows no bans, and denies every unknown source")
    allow = set(rules["licenses"]["allow"])
    command = ["cargo", "metadata", "--format-version=1", "--locked", "--all-features"]
    metadata = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    used = {node["id"] for node in metadata["resolve"]["nodes"]}
    packages = [p for p in metadata["packages"] if p["id"] in used]
    wrong = []
    for p in packages:
        name = f"{p['name']} {p['version']}"
        if p["source"] is not None and not p["source"].endswith(KNOWN):
            wrong.append(f"{name}: from {p['source']}")
        try:
            licence = named(p)
            if not licence or not allowed(licence, allow):
                wrong.append(f"{name}: licence {licence or 'not named'}")
        except (ValueError, IndexError):
            wrong.append(f"{name}: licence {p['license']} cannot be read")
    print("\n".join(wrong or [f"{len(packages)} packages: licences and sources ok"]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

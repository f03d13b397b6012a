#!/usr/bin/env python3
"""Runs the library's tests against every mutant of the objectives and of the training step, with one build.

    scripts/mutants.py --output OUT [--file GLOB …] [--only NUMBER …]

cargo-mutants (27.1) lists the mutants: an operator exchanged, a body replaced by a constant, an arm left out. It would build the
library once for each. Here all of them are compiled into one program: in a copy of the sources each function becomes a choice
between its own body and its mutated ones, by ALBEF_MUTANT. What does not compile is left out and counted. Tests run in the ORDER
below, until one fails. Everything that is there already is kept, so an interrupted run goes on. Writes
OUT/mutants.json; prints the counts and what was missed.
"""
import argparse
import collections
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = ["crates/albef/src/objectives/**/*.rs", "crates/albef/src/train/step.rs"]
# The replay of the fixtures of training, and the tests of the mutated modules; all others; those that break a step on purpose.
FIRST, LAST = ["golden::falsification::without_a_fault", "objectives::", "train::", "quirk_tests::"], "golden::falsification"
ORDER = [FIRST, [part for name in [*FIRST, LAST] for part in ("--skip", name)], [LAST]]
CHOICE = """
#[allow(missing_docs)]
pub fn mutant() -> u32 {
    static CHOSEN: std::sync::LazyLock<u32> =
        std::sync::LazyLock::new(|| std::env::var("ALBEF_MUTANT").ok().and_then(|n| n.parse().ok()).unwrap_or(0));
    *CHOSEN
}
"""

def listed(globs):
    """What cargo-mutants would change, numbered from 1."""
    command = ["cargo", "mutants", "--package", "albef", "--list", "--json", *(part for g in globs for part in ("--file", g))]
    found = json.loads(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return {number: mutant for number, mutant in enumerate(found, 1)}


class Text:
    """A source file, addressed by line and column in characters, both from 1."""

    def __init__(self, text):
        self.text = text
        self.lines = [0]
        for place, char in enumerate(text):
            if char == "\n":
                self.lines.append(place + 1)

    def span(self, span):
        return tuple(self.lines[span[end]["line"] - 1] + span[end]["column"] - 1 for end in ("start", "end"))


def body(text, start, end):
    """Where the body of the function in text[start:end] begins and ends, without its braces."""
    name = re.compile(r"\bfn\s+\w+").search(text, start, end)
    return text.index("{", name.end(), end) + 1, text.rindex("}", start, end)


def instrumented(source, mutants):
    """The source with its mutants, and the lines of each."""
    text, functions = Text(source), collections.defaultdict(list)
    for number, mutant in mutants.items():
        # A constant has its value before the program runs.
        if mutant["function"] is None:
            continue
        functions[text.span(mutant["function"]["span"])].append((number, mutant))
    out, lines, at = [], {}, 0
    for (start, end), own in sorted(functions.items()):
        first, last = body(source, start, end)
        if first < at:
            raise RuntimeError(f"a function within a function: {own[0][1]['name']}")
        out.append(source[at:first] + "\nmatch crate::mutant() {")
        for number, mutant in own:
            low, high = text.span(mutant["span"])
            if mutant["genre"] == "FnValue":
                changed = mutant["replacement"]
            else:
                changed = source[first:low] + mutant["replacement"] + source[high:last]
            out.append(f"\n{number} => {{\n")
            begin = sum(part.count("\n") for part in out) + 1
            out.append(changed + "\n}")
            lines[number] = (begin, begin + changed.count("\n"))
        out.append(f"\n_ => {{{source[first:last]}\n}}\n}}")
        at = last
    return "".join([*out, source[at:]]), lines


class Run:
    def __init__(self, options):
        self.o, self.out = options, Path(options.output)
        self.tree = self.out / "tree"
        self.done = self.out / "mutants.json"
        self.out.mkdir(parents=True, exist_ok=True)

    def cargo(self, *command):
        command = ["cargo", command[0], "--release", "-p", "albef", "--lib", "--message-format", "json",
                   "--config", "profile.release.package.albef.opt-level=1", *command[1:]]
        return subprocess.run(command, cwd=self.tree, stdout=subprocess.PIPE, text=True)

    def copy(self):
        if self.tree.exists():
            shutil.rmtree(self.tree)
        files = subprocess.run(["git", "ls-files"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
        for name in files:
            (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, self.tree / name)
        lib = self.tree / "crates/albef/src/lib.rs"
        lib.write_text(lib.read_text() + CHOICE)

    def build(self, mutants, refused):
        """The test program with all mutants that compile; adds the numbers of those that do not."""
        self.copy()
        while True:
            lines = {}
            for name in sorted({m["file"] for m in mutants.values()}):
                own = {n: m for n, m in mutants.items() if m["file"] == name and n not in refused}
                changed, lines[name] = instrumented((ROOT / name).read_text(), own)
                (self.tree / name).write_text(changed)
            messages = [json.loads(line) for line in self.cargo("test", "--no-run").stdout.splitlines() if line.startswith("{")]
            found = set()
            for message in (m["message"] for m in messages if m["reason"] == "compiler-message"):
                if message["level"] != "error":
                    continue
                for span in message["spans"]:
                    for number, (low, high) in lines.get(span["file_name"], {}).items():
                        if low <= span["line_start"] and span["line_end"] <= high:
                            found.add(number)
            programs = [m["executable"] for m in messages if m["reason"] == "compiler-artifact" and m.get("executable")]
            if programs:
                return programs[0]
            if not found:
                errors = [m["message"]["rendered"] for m in messages if m["reason"] == "compiler-message"]
                sys.exit("it does not compile, and no mutant is to blame:\n" + "\n".join(errors)[-4000:])
            print(f"{len(found)} do not compile", file=sys.stderr, flush=True)
            refused |= found

    def passes(self, program, number, *filters):
        # Functions with many bodies have large frames.
        env = {**os.environ, "ALBEF_MUTANT": str(number), "RUST_MIN_STACK": str(2 ** 28)}
        try:
            ran = subprocess.run([program, "-q", *filters], cwd=self.tree / "crates/albef", env=env, timeout=self.o.timeout,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            return "timeout"
        return None if ran.returncode == 0 else "caught"

    def verdict(self, program, number):
        return next(filter(None, (self.passes(program, number, *filters) for filters in ORDER)), "missed")

    def run(self):
        mutants = listed(self.o.file)
        if self.o.only:
            mutants = {number: mutants[number] for number in self.o.only}
        names = {number: mutant["name"] for number, mutant in mutants.items()}
        kept = json.loads(self.done.read_text()) if self.done.exists() else {}
        refused = {number for number, name in names.items() if kept.get(name) == "unviable"}
        program = self.build(mutants, refused)
        kept |= {names[number]: "unviable" for number in refused}
        if self.verdict(program, 0) != "missed":
            sys.exit("the tests fail without a mutant")
        for number, name in names.items():
            if mutants[number]["function"] is None:
                kept[name] = "constant"
            elif name not in kept:
                kept[name] = self.verdict(program, number)
                print(f"{number} of {len(names)}: {kept[name]}: {name}", file=sys.stderr, flush=True)
            self.done.write_text(json.dumps(kept, indent=1))
        counts = collections.Counter(kept[name] for name in names.values())
        compiled = len(names) - counts["unviable"] - counts["constant"]
        caught = counts["caught"] + counts["timeout"]
        print(f"{len(names)} mutants, {counts['unviable']} do not compile, {counts['constant']} of a constant not run, "
              f"{caught} caught ({counts['timeout']} by the time limit), "
              f"{counts['missed']} missed: {100 * caught / max(compiled, 1):.1f} % of {compiled} caught")
        for name in names.values():
            if kept[name] == "missed":
                print(f"missed: {name}")


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--output", required=True)
    a.add_argument("--file", nargs="+", default=FILES, help="sources to mutate, as for cargo mutants")
    a.add_argument("--only", nargs="+", type=int, help="these mutants, by number")
    a.add_argument("--timeout", type=float, default=300, help="seconds after which a test program counts as caught")
    Run(a.parse_args()).run()


if __name__ == "__main__":
    main()

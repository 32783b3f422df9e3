#!/usr/bin/env python3
"""Times plimsoll beside llama-bench on the same file, in turn (A B A B ...), and prints medians and ratios.

  LLAMA_BENCH=/path/to/llama-bench benches/compare.py -m MODEL.gguf [-t 2] [-p 512] [-n 64] [--pairs 5]
      [--ours '--profile configs/cpu-only.yaml'] [--theirs '-fa 1'] [--json FILE]

PLIMSOLL names another binary than target/release/plimsoll. A ratio above 1 means that plimsoll is faster. Each run does
its own warm-up and measures once; the ratio is taken pair by pair, so that a machine whose speed drifts compares fairly.
"""
import argparse
import json
import os
import pathlib
import shlex
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def measure(command):
    """Tokens per second by kind of work: {'pp512': 431.0, 'tg64': 20.1}."""
    folder = os.path.dirname(command[0])
    environment = dict(os.environ, LD_LIBRARY_PATH=f"{folder}:{os.environ.get('LD_LIBRARY_PATH', '')}")
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        sys.exit(f"{shlex.join(command)} ended with {done.returncode}\n{done.stderr[-2000:]}")
    name = lambda row: f"pp{row['n_prompt']}" if row["n_prompt"] else f"tg{row['n_gen']}"
    return {name(row): row["avg_ts"] for row in json.loads(done.stdout)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("-t", "--threads", type=int, default=os.cpu_count())
    parser.add_argument("-p", "--prompt", type=int, default=512)
    parser.add_argument("-n", "--generate", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--ours", default="", help="further arguments for plimsoll bench")
    parser.add_argument("--theirs", default="", help="further arguments for llama-bench")
    parser.add_argument("--json", help="write every sample here")
    options = parser.parse_args()

    theirs = os.environ.get("LLAMA_BENCH") or sys.exit("LLAMA_BENCH must name llama.cpp's llama-bench")
    ours = os.environ.get("PLIMSOLL", str(ROOT / "target/release/plimsoll"))
    work = ["-m", options.model, "-t", options.threads, "-p", options.prompt, "-n", options.generate, "-r", 1, "-o", "json"]
    work = [str(word) for word in work]
    commands = {
        "plimsoll": [ours, "bench", *work, *shlex.split(options.ours)],
        "llama.cpp": [theirs, *work, *shlex.split(options.theirs)],
    }
    samples = {who: {} for who in commands}
    for _ in range(options.pairs):
        for who, command in commands.items():
            for kind, rate in measure(command).items():
                samples[who].setdefault(kind, []).append(rate)

    for who, command in commands.items():
        print(f"{who}: {shlex.join(command)}")
    print(f"\n| work | plimsoll t/s | llama.cpp t/s | ratio | min..max of {options.pairs} pairs |\n|---|---|---|---|---|")
    for kind, rates in samples["plimsoll"].items():
        peer = samples["llama.cpp"][kind]
        ratios = [a / b for a, b in zip(rates, peer)]
        medians = [statistics.median(values) for values in (rates, peer, ratios)]
        print(f"| {kind} | {medians[0]:.2f} | {medians[1]:.2f} | {medians[2]:.3f} | {min(ratios):.3f}..{max(ratios):.3f} |")
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(samples, indent=1) + "\n")


main()

#!/usr/bin/env python3
"""Forecasts beside measurements: for each case probes, benches, probes again, and prints a table.

  benches/forecast.py --models FOLDER [--limit-with CG.sh] [--only TEXT] [--json FILE]

Measured is the median of the repetitions, beside it their range. Of mixtures under a limit a run with other tokens counts first which experts are chosen, and its counts are
what is planned and forecast with. Each forecast is made before its run, by rates that were probed just before; the rates of RAM, of prompts' products and of the drive stand beside it as that probe saw them
and as the one after the run did, since the rates of a shared machine swing. Where one moved by more than a tenth meanwhile (the drive's in cases with a limit), no forecast could have been right: such a case
is run again, up to --tries times, and what is left of them is marked and counted apart. Cases with a limit run under `--ram` and, with --limit-with, in a control group of so many bytes and 64 MiB for page
tables and the kernel: that script is called as `CG.sh BYTES COMMAND...`. Models of names such as llama-1b-Q8_0 are synthetic: any of that shape will
do, and names that are not in the folder are passed over. PLIMSOLL names another binary than target/release/plimsoll.
"""
import argparse
import json
import os
import pathlib
import re
import shlex
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
MIB = 1 << 20
# Beside the ceiling, in a control group: MiB of page tables and of the kernel's own.
SPARE = 64

# Between two probes a rate that held moves by no more than this.
STEADY = 0.1

# file, MiB of RAM or None for all that there is, words of the bench
CASES = [
    ("SmolLM2-135M-Instruct.Q4_1", None, "-p 512 -n 64"),
    ("gemma-3-270m.Q4_K_M", None, "-p 512 -n 64"),
    ("llama-1b-Q4_K_M", None, "-p 512 -n 32"),
    ("llama-1b-Q4_K_M", None, "-p 256 -n 32 -d 2048"),
    ("llama-1b-Q8_0", None, "-p 512 -n 32"),
    ("llama-1b-IQ2_XXS", None, "-p 512 -n 32"),
    ("llama-3b-Q4_K_M", None, "-p 256 -n 16"),
    ("llama-3b-IQ2_XXS", None, "-p 256 -n 16"),
    ("qwen3moe-1b-Q4_K_M", None, "-p 512 -n 64"),
    ("qwen3moe-1b-Q4_K_M", None, "-p 256 -n 64 -d 2048"),
    ("qwen3moe-1b-Q8_0", None, "-p 512 -n 64"),
    ("qwen3moe-6l-Q4_K_M", None, "-p 512 -n 32"),
    ("qwen3moe-6l-IQ2_XXS", None, "-p 512 -n 32"),
    ("llama-1b-Q4_K_M", 500, "-p 512 -n 16"),
    ("llama-1b-Q8_0", 800, "-p 512 -n 12"),
    ("llama-3b-Q4_K_M", 1400, "-p 256 -n 12"),
    ("llama-3b-IQ2_XXS", 700, "-p 256 -n 12"),
    ("qwen3moe-1b-Q8_0", 450, "-p 512 -n 32"),
    ("qwen3moe-6l-Q4_K_M", 1500, "-p 256 -n 32"),
    ("qwen3moe-6l-IQ2_XXS", 800, "-p 256 -n 32"),
]


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{shlex.join(command)} ended with {done.returncode}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", required=True, type=pathlib.Path)
    parser.add_argument("--limit-with", help="a script that runs a command in a control group of so many bytes")
    parser.add_argument("--only", default="", help="cases whose line matches this, a regular expression")
    parser.add_argument("-r", "--repetitions", type=int, default=5)
    parser.add_argument("--tries", type=int, default=3, help="how often a case is run at most while the machine's rates move")
    parser.add_argument("--json", help="write every case here")
    options = parser.parse_args()
    plimsoll = os.environ.get("PLIMSOLL", str(ROOT / "target/release/plimsoll"))
    # Rates of this comparison only, so that what users measured stays.
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="plimsoll-forecast-")

    rows, before = [], None
    print("| model | RAM | test | measured t/s | forecast t/s | off | RAM, products, drive before → after | peak of plan |\n|---|---|---|---|---|---|---|---|")
    for file, ram, words in CASES:
        model = str(options.models / f"{file}.gguf")
        if not re.search(options.only, f"{file} {ram} {words}") or not os.path.exists(model):
            continue
        bench = [plimsoll, "bench", "-m", model, *words.split(), "-r", str(options.repetitions), "-o", "json"]
        if ram:
            bench += ["--ram", f"{ram}MiB"]
            if options.limit_with:
                bench = [options.limit_with, str((ram + SPARE) * MIB), *bench]
            bench += counted(plimsoll, model)
        for _ in range(options.tries):
            # The probe after a run is the one before the next.
            before = before or probe(plimsoll, model)
            tests, rates = run(bench), [before]
            before = probe(plimsoll, model)
            rates.append(before)
            steady = all(abs(a / b - 1) <= STEADY for a, b in list(zip(*rates))[: 3 if ram else 2])
            if steady:
                break
        for test in tests:
            rows.append({**test, "case": [file, ram, words], "rates": rates, "steady": steady})
            print(line(rows[-1]), flush=True)
    for what, some in [("rates that held", [r for r in rows if r["steady"]]), ("all", rows)]:
        off = [abs(test["forecast_ts"] / seen(test) - 1) for test in some]
        if off:
            print(f"\n{what}: median {statistics.median(off):.1%}, worst {max(off):.1%} of {len(off)}")
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")


def probe(plimsoll, model):
    """GB/s of RAM, giga-operations a second, and GB/s of the drive."""
    seen = run([plimsoll, "probe", "--force", "--json", "-m", model])
    return [seen[what]["median"] / 1e9 for what in ("ram_read", "cpu_ops", "disk_read")]


def counted(plimsoll, model):
    """Words for what experts other tokens chose; none of a dense model."""
    if not run([plimsoll, "inspect", "-m", model, "--json"])["shape"]["experts"]:
        return []
    counts = os.path.join(os.environ["XDG_CACHE_HOME"], pathlib.Path(model).stem + ".counts")
    if not os.path.exists(counts):
        words = ["--raw", "--json", "--temp", "1", "--seed", "5", "-n", "96", "-p", "The quick brown fox", "--trace"]
        run([plimsoll, "run", "-m", model, *words, "--expert-stats", counts])
    return ["--expert-stats", counts]


def seen(test):
    return statistics.median(samples(test))


def samples(test):
    """Tokens a second of each repetition."""
    return [(test["n_prompt"] or test["n_gen"]) * 1e9 / ns for ns in test["samples_ns"]]


def line(test):
    (file, ram, _), (before, after) = test["case"], test["rates"]
    kind = f"pp{test['n_prompt']}" if test["n_prompt"] else f"tg{test['n_gen']}"
    kind += f" @ {test['n_depth']}" if test["n_depth"] else ""
    held = next(tier for tier in test["tiers"] if tier["name"] == "ram")
    peak = f"{held['peak_bytes'] / MIB:.0f} of {held['planned_bytes'] / MIB:.0f} MiB"
    off = f"{test['forecast_ts'] / seen(test) - 1:+.0%}" + ("" if test["steady"] else " (rates moved)")
    return (
        f"| {file} | {f'{ram} MiB' if ram else 'all'} | {kind} | {seen(test):.2f} ({min(samples(test)):.2f}–{max(samples(test)):.2f}) | {test['forecast_ts']:.2f} | {off} "
        f"| {before[0]:.1f}, {before[1]:.0f}, {before[2]:.2f} → {after[0]:.1f}, {after[1]:.0f}, {after[2]:.2f} | {peak} |"
    )


main()

#!/usr/bin/env python3
"""Holds plimsoll to a memory limit that the kernel enforces, and kills it: what is promised of a machine that is nearly full.

  benches/limits.py -m MODEL.gguf [-m ...] [--runs 100] [--limits 1GiB,2GiB,4GiB,8GiB] [--spare 60000000]
  benches/limits.py -m MODEL.gguf --kills 200

The first loads and runs each model in a control group of its own (version 1 or 2, which this user must be allowed to make) under each
limit in turn, with --ram at the limit less what is spare, the page cache dropped where that is allowed. A run may end with its tokens or be refused
(exit code 4); any other end, and any kill for memory, is a failure. The second kills runs, copies and probes with SIGKILL at random moments, and then
expects a run to give the tokens of one that nobody disturbed, and a copy to be whole. PLIMSOLL names another binary than
target/release/plimsoll.
"""
import argparse
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PLIMSOLL = os.environ.get("PLIMSOLL", str(ROOT / "target/release/plimsoll"))
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
RUN = ["--raw", "--json", "--temp", "0", "-n", "4", "-c", "256", "-p", "hello"]


class Group:
    """A control group for memory, removed at the end."""

    def __init__(self):
        one, two = pathlib.Path("/sys/fs/cgroup/memory"), pathlib.Path("/sys/fs/cgroup")
        self.old = one.is_dir()
        self.folder = (one if self.old else two) / f"plimsoll-limits-{os.getpid()}"
        self.folder.mkdir()

    def limit(self, limit):
        (self.folder / ("memory.limit_in_bytes" if self.old else "memory.max")).write_text(str(limit))

    def kills(self):
        text = (self.folder / ("memory.oom_control" if self.old else "memory.events")).read_text()
        found = re.search(r"^oom_kill (\d+)", text, re.M)
        return int(found[1]) if found else 0

    def run(self, command):
        enter = lambda: (self.folder / "cgroup.procs").write_text(str(os.getpid()))
        return subprocess.run(command, capture_output=True, text=True, preexec_fn=enter)

    def remove(self):
        self.folder.rmdir()


def size(text):
    number, unit = re.fullmatch(r"(\d+)([KMG]?)(?:iB)?", text).groups()
    return int(number) * UNITS[unit]


def under_limits(options):
    group, failures, ends = Group(), [], {}
    try:
        for i in range(options.runs):
            model = options.model[i % len(options.model)]
            limit = options.limits[i // len(options.model) % len(options.limits)]
            subprocess.run("sync; echo 3 > /proc/sys/vm/drop_caches", shell=True, stderr=subprocess.DEVNULL)
            group.limit(limit)
            done = group.run([PLIMSOLL, "run", "-m", model, *RUN, "--ram", str(limit - options.spare)])
            ends[done.returncode] = ends.get(done.returncode, 0) + 1
            if done.returncode not in (0, 4) or group.kills():
                failures.append((model, limit, done.returncode, group.kills(), done.stderr[-400:]))
    finally:
        group.remove()
    print(f"{options.runs} runs, by exit code: {ends}; kills for memory or other ends: {len(failures)}")
    return failures


def killed(options):
    """Kills each kind of command at random moments of its usual time."""
    model, failures = options.model[0], []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        environment = dict(os.environ, XDG_CACHE_HOME=f"{folder}/cache", HOME=folder)
        copies = pathlib.Path(folder) / "copies"
        copy = copies / pathlib.Path(model).name
        ask = lambda *words: subprocess.run([PLIMSOLL, *words], capture_output=True, text=True, env=environment)
        tokens = lambda: json.loads(ask("run", "-m", model, *RUN).stdout)["tokens"]
        right = tokens()
        kinds = {"run": ["run", "-m", model, *RUN], "repack": ["repack", "-m", model, "-o", str(copies)], "probe": ["probe"]}
        usual = {"probe": 3.0}
        for kind in ("run", "repack"):
            start = time.monotonic()
            ask(*kinds[kind])
            usual[kind] = time.monotonic() - start
            shutil.rmtree(copies, ignore_errors=True)
        for i in range(options.kills):
            kind = ["run", "repack", "run", "repack", "probe"][i % 5]
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            child = subprocess.Popen([PLIMSOLL, *kinds[kind]], env=environment, cwd=folder, **quiet)
            time.sleep(random.uniform(0, usual[kind]))
            child.kill()
            child.wait()
            if i % 10 == 9 and tokens() != right:
                failures.append(f"after kill {i} of {kind}: other tokens")
            if copy.exists():
                if ask("verify", "-m", str(copy)).returncode:
                    failures.append(f"after kill {i}: a copy that is not whole")
                shutil.rmtree(copies)
        if ask(*kinds["repack"]).returncode or ask("verify", "-m", str(copy)).returncode:
            failures.append("no whole copy after all kills")
        left = sorted(path.name for path in pathlib.Path(folder).rglob("*") if path.is_file() and copies not in path.parents)
        names = sorted(path.name for path in copies.iterdir())
    print(f"{options.kills} kills, failures: {len(failures)}; copies: {names}, beside them: {left}")
    return failures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", action="append", required=True)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--limits", type=lambda text: [size(word) for word in text.split(",")], default="1GiB,2GiB,4GiB,8GiB")
    parser.add_argument("--spare", type=int, default=60_000_000, help="bytes of the limit for page tables and the kernel")
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--folder", help="where copies are made while commands are killed")
    options = parser.parse_args()
    failures = killed(options) if options.kills else under_limits(options)
    for failure in failures:
        print(failure, file=sys.stderr)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()

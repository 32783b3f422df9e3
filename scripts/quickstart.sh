#!/usr/bin/env bash
# From a fresh clone to an answer: builds plimsoll, gets SmolLM2-135M-Instruct, plans it under a RAM ceiling that is
# smaller than the model, asks it a question and prints what each tier did.
#   PLIMSOLL   a binary to use instead of building one
set -euo pipefail
cd "$(dirname "$0")/.."
say() { printf '\n\033[1m== %s\033[0m\n' "$*" >&2; }

if [ -z "${PLIMSOLL:-}" ]; then
  say "Building (a few minutes the first time)"
  cargo build --release --locked
  PLIMSOLL=target/release/plimsoll
fi

say "Getting SmolLM2-135M-Instruct"
hub=hf:bartowski/SmolLM2-135M-Instruct-GGUF:Q4_K_M
model=$("$PLIMSOLL" pull "$hub" 2>/dev/null) || model=$(scripts/get-model.sh smollm2)
echo "$model" >&2

say "What is in it"
"$PLIMSOLL" inspect -m "$model"

say "Where its bytes will live: $(grep -E '^ *ram:' configs/quickstart.yaml | tr -s ' ')"
"$PLIMSOLL" plan -m "$model" --profile configs/quickstart.yaml

say "What is the capital of France?"
"$PLIMSOLL" run -m "$model" --profile configs/quickstart.yaml --temp 0 -n 64 -p "What is the capital of France? Answer in one sentence."

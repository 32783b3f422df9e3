#!/usr/bin/env bash
# All tests: format, lints, tests, documentation. What is skipped is printed.
#   PLIMSOLL_FIXTURES  folder of the oracle fixtures; tests that need it are skipped without it
#   PLIMSOLL_MODELS    folder of the small real models (target/models); fetched where they are missing
#   PLIMSOLL_GPU       set where there is a card: the engine's tests on it run too
#   PROPTEST_RNG_SEED  which cases property tests draw (1)
#   PLIMSOLL_THOROUGH  set to let each read of a run fail in turn, which takes some ten minutes
set -euo pipefail
cd "$(dirname "$0")/.."
PLIMSOLL_MODELS=${PLIMSOLL_MODELS:-$PWD/target/models}
export PLIMSOLL_MODELS
# Property tests draw the same cases each time, so that a change is judged by what it changed; another number draws others.
export PROPTEST_RNG_SEED=${PROPTEST_RNG_SEED:-1}

models() {
  for model in smollm2 gemma3-270m; do
    scripts/get-model.sh "$model" >/dev/null || echo "skipped: tests on $model, which cannot be fetched here"
  done
}
nvcc_is_here() {
  [ -n "${PLIMSOLL_NVCC:-${CUDA_HOME:-}}" ] || command -v nvcc >/dev/null || scripts/cuda-toolkit.sh
}

cargo fmt --all --check
# Fetched while the processor is busy with lints, which need no nvcc.
models &
models=$!
nvcc_is_here &
nvcc=$!
cargo clippy --workspace --all-targets --locked -- -D warnings
cargo clippy --workspace --all-targets --locked --features cuda -- -D warnings
wait "$models"
# Kernels for GPUs belong to the one build of all tests: their own run where there is a card, and say that they are skipped elsewhere. All other
# code for GPUs is held by the lints.
features=()
if wait "$nvcc"; then
  features=(--features kernels/cuda)
else
  echo "skipped: kernels for GPUs, whose compiler cannot be fetched here"
fi
cargo test --workspace --locked "${features[@]}"
if [ -n "${PLIMSOLL_GPU:-}" ] && [ ${#features[@]} -gt 0 ]; then
  cargo test --workspace --locked --features cuda --test suite gpu::
else
  echo "skipped: the engine on a GPU, which needs PLIMSOLL_GPU"
fi
export RUSTDOCFLAGS="-D warnings"
cargo doc --workspace --no-deps --locked --quiet
if [ ${#features[@]} -gt 0 ]; then
  cargo doc --workspace --no-deps --locked --quiet --features cuda
fi

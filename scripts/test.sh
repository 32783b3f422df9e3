#!/usr/bin/env bash
# All tests: format, lints, tests, documentation. What is skipped is printed.
#   PLIMSOLL_FIXTURES  folder of the oracle fixtures; tests that need it are skipped without it
#   PLIMSOLL_MODELS    folder of the small real models (target/models); fetched where they are missing
#   PLIMSOLL_THOROUGH  set to let each read of a run fail in turn, which takes three minutes
set -euo pipefail
cd "$(dirname "$0")/.."
PLIMSOLL_MODELS=${PLIMSOLL_MODELS:-$PWD/target/models}
export PLIMSOLL_MODELS
for model in smollm2 gemma3-270m; do
  scripts/get-model.sh "$model" >/dev/null || echo "skipped: tests on $model, which cannot be fetched here"
done
cargo fmt --all --check
cargo clippy --workspace --all-targets --locked -- -D warnings
cargo test --workspace --locked
# The code for GPUs is compiled and checked here; its tests on a card say that they are skipped where there is none.
if [ -n "${PLIMSOLL_NVCC:-${CUDA_HOME:-}}" ] || command -v nvcc >/dev/null || scripts/cuda-toolkit.sh; then
  cargo clippy --workspace --features cuda --all-targets --locked -- -D warnings
  cargo test -p kernels --features cuda --locked --lib --test cuda
  cargo test --workspace --features cuda --locked --test suite gpu::
  RUSTDOCFLAGS="-D warnings" cargo doc -p kernels --features cuda --no-deps --locked --quiet
else
  echo "skipped: code for GPUs, whose compiler cannot be fetched here"
fi
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet

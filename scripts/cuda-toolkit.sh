#!/usr/bin/env bash
# Puts NVIDIA's compiler into a folder (default target/cuda), so that `cargo build --features cuda` works where no CUDA toolkit is
# installed. Needs python3 with pip and a C++ compiler; no root, no GPU, no driver. An installed toolkit of 12.8 or newer serves as
# well: the build takes the first of $PLIMSOLL_NVCC, $CUDA_HOME/bin/nvcc, target/cuda/bin/nvcc and nvcc on the path.
#   scripts/cuda-toolkit.sh [DIR]
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$(realpath -m "${1:-target/cuda}")

# CUDA 13.0 update 2, the newest whose PTX a driver of the 580 series takes. The wheels of CUDA 12 have no nvcc.
packages=(
  nvidia-cuda-nvcc==13.0.88    # nvcc, ptxas, fatbinary
  nvidia-nvvm==13.0.88         # cicc, which turns CUDA C++ into PTX
  nvidia-cuda-crt==13.0.88     # headers that nvcc includes by itself
  nvidia-cuda-runtime==13.0.96 # cuda_runtime.h and cuda_fp16.h; nothing of it is linked
  nvidia-cuda-cccl==13.0.85    # headers that those include
)
wanted="${packages[*]}"
if [ "$(cat "$dir/versions" 2>/dev/null || true)" = "$wanted" ]; then
  exit 0
fi
rm -rf "$dir"
mkdir -p "$dir"
python3 -m pip install --quiet --disable-pip-version-check --no-deps --no-compile --root-user-action=ignore \
  --target "$dir/wheels" "${packages[@]}"
for part in bin nvvm include lib; do
  ln -s "wheels/nvidia/cu13/$part" "$dir/$part"
done
"$dir/bin/nvcc" --version >/dev/null
echo "$wanted" >"$dir/versions"

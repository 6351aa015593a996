#!/bin/sh
# Inside the build: install the dependencies of exfm[EXTRA...] into /opt/exfm, each at its locked version and with its hash.
#
#   install.sh cpu|cuda EXTRA...
#
# With TORCH_INDEX in the environment, torch comes from that index.
set -eu
cd "$(dirname "$0")"

# What torch's wheel needs only for a GPU: its compiler, the bindings that build with it, solvers, profiling marks.
case $1 in
cpu) excludes="triton cuda-bindings cuda-pathfinder nvidia-cusolver nvidia-nvtx" ;;
cuda) excludes="" ;;
*) echo "install.sh: $1 is neither cpu nor cuda" >&2 && exit 2 ;;
esac
printf '%s\n' $excludes >/tmp/excludes.txt
mkdir /tmp/torch
[ -z "${TORCH_INDEX:-}" ] || sh torch_from.sh /mnt/bin/python "$TORCH_INDEX" requirements.lock /tmp/torch
export UV_HTTP_TIMEOUT=120 UV_HTTP_RETRIES=8
/mnt/bin/uv pip install --quiet --python /opt/exfm --no-cache --system-certs --compile-bytecode \
    --require-hashes --constraints requirements.lock --constraints constraints.txt --excludes /tmp/excludes.txt \
    --find-links /tmp/torch --requirements pyproject.toml $(printf -- '--extra %s ' "$@")

rm -rf /tmp/* /tmp/.cache
# NumPy's own testing module, which others import, imports its tests.
find /opt/exfm/lib -type d -name tests ! -path '*/numpy/*' -prune -exec rm -rf {} +

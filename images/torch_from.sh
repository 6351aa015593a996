#!/bin/sh
# Inside the build: take torch's wheel of the locked version from an index of its own, in whatever build that index has it
# (2.13.0+cpu, say). From then on the lock names this wheel by its hash: what vouches for it is the index.
#
#   torch_from.sh PYTHON INDEX LOCK FOLDER    PYTHON has pip; the wheel is put into FOLDER
set -eu
python=$1 index=$2 lock=$3 folder=$4

version=$(sed -n 's/^torch==\([^ ]*\).*/\1/p' "$lock")
"$python" -m pip download --quiet --disable-pip-version-check --no-cache-dir --no-deps --only-binary :all: \
    --index-url "$index" --dest "$folder" "torch==$version"
wheel=$(basename "$folder"/torch-*.whl)
build=${wheel#torch-}
hash=$(sha256sum "$folder/$wheel" | cut -d ' ' -f 1)
sed -i '/^torch==/,/[^\\]$/d' "$lock"
printf 'torch==%s \\\n    --hash=sha256:%s\n' "${build%%-*}" "$hash" >>"$lock"

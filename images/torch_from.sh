#!/bin/sh
# Inside the build: take torch's wheel of the locked version from another index, in the build that the index has (such as
# 2.13.0+cpu). The lock then has the hash of this wheel; you trust the index.
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

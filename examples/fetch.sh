#!/bin/sh
# Put the data set $1, movielens or open_bandit, into the folder $2. It lies in a wheel on PyPI, whose digest is checked.
set -eu
folder=$2
case $1 in
movielens)
    title="MovieLens-100K (GroupLens; see README.md for its terms)"
    requirement=recbole==1.2.1
    wheel=recbole-1.2.1-py3-none-any.whl
    sha256=9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407
    files='recbole/dataset_example/ml-100k/(ml-100k\.(?:inter|user|item))'
    ;;
open_bandit)
    title="the sample of the Open Bandit Dataset (ZOZO; see README.md for its terms)"
    requirement=obp==0.4.1
    wheel=obp-0.4.1-py3-none-any.whl
    sha256=87dec9caf4283c25ab13036532e0a24566f1c7bdcad1653a8ded43b2f5ef8208
    files='obp/dataset/obd/(.*\.csv)'
    ;;
*)
    echo "unknown data set $1; expected movielens or open_bandit" >&2
    exit 2
    ;;
esac
cache=${XDG_CACHE_HOME:-$HOME/.cache}/exfm
mkdir -p "$folder" "$cache"
if ! echo "$sha256  $cache/$wheel" | sha256sum --check --status 2>/dev/null; then
    echo "Fetching $title ..."
    python -m pip download --quiet --disable-pip-version-check --no-deps --dest "$cache" "$requirement"
    echo "$sha256  $cache/$wheel" | sha256sum --check --status || {
        echo "$cache/$wheel is not the expected file; remove it and try again" >&2
        exit 1
    }
fi
python - "$cache/$wheel" "$files" "$folder" <<'PYTHON'
import re
import sys
import zipfile
from pathlib import Path

wheel, files, folder = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive:
    for name in archive.namelist():
        if match := re.fullmatch(files, name):
            file = Path(folder, match[1])
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(archive.read(name))
PYTHON

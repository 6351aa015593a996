#!/bin/sh
# Build exfm-serving and exfm-pipelines at pyproject.toml's version, with docker, podman or buildah.
#
#   build.sh [OPTION...]    options of the tool's build, such as --build-arg COMPUTE=cuda
#
# CONTAINER_TOOL names the tool, instead of the first that works.
set -eu
cd "$(dirname "$0")/.."

works() {
    command -v "$1" >/dev/null && "$1" info >/dev/null 2>&1
}

tool=${CONTAINER_TOOL:-}
for candidate in docker podman buildah; do
    [ -n "$tool" ] || ! works "$candidate" || tool=$candidate
done
[ -n "$tool" ] || { echo "building images needs docker (and its daemon), podman or buildah; none works here" >&2; exit 2; }

[ "$tool" != buildah ] || set -- --layers "$@" # as the others do: both images then have the same layers

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
revision=$(git rev-parse --verify --quiet HEAD || echo unknown)
for name in serving pipelines; do
    echo "Building exfm-$name:$version with $tool ..."
    "$tool" build --file images/Dockerfile --target "$name" --tag "exfm-$name:$version" \
        --build-arg "VERSION=$version" --build-arg "REVISION=$revision" "$@" .
done

#!/bin/bash
# Make the rig's images, each an OCI archive in OUT_DIR, without a registry. Needs Debian, root, mmdebstrap,
# buildah and skopeo.
#
#   build.sh OUT_DIR
#
# stdout: IMAGE <reference> <archive> <digest>, in the order to import in. An archive leaves out the layers that one
# before it carries (containerd keeps what it has), so a change of exfm's sources makes and imports 4 MB.
# stderr: a line for each step with its seconds.
set -euo pipefail
# In a mount namespace of its own: killed, it leaves no mount behind.
[ -n "${EXFM_UNSHARED:-}" ] || EXFM_UNSHARED=yes exec unshare --mount "$0" "$@"
out=$(mkdir -p "${1:?usage: build.sh OUT_DIR}" && realpath "$1")
cd "$(dirname "$0")/../../.."
here=tests/cluster/images
cache=${EXFM_RIG_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/exfm-rig}/images

main() {
    local base_key layers_key key store
    base_key=$(declare -f make_base | digest)
    layers_key=$( (echo "$base_key" && python3 images/dependencies.py pyproject.toml &&
        sed '/ AS serving$/,$d' images/Dockerfile && cat requirements.lock images/{constraints.txt,{install,torch_from,trim}.sh}) | digest)
    key=$( (echo "$layers_key" && cat images/Dockerfile "$here"/*.* "$here"/*/* pyproject.toml README.md &&
        find src components pipelines -type f ! -path '*/__pycache__/*' -print0 | LC_ALL=C sort -z |
        xargs -0 sha256sum) | digest)
    if [ "$(cat "$out/images.key" 2>/dev/null)" = "$key" ]; then
        cat "$out/images.txt"
        return
    fi
    rm -f "$out/images.key"

    # Storage of its own: nothing of ours is left in the machine's. One for each set of dependencies, the last alone.
    store=$cache/stores/$layers_key
    mkdir -p "$store/tmp" "$cache/bases"
    exec 9>"$cache/lock"
    flock 9
    find "$cache/stores" -mindepth 1 -maxdepth 1 ! -path "$store" -exec rm -rf {} +
    find "$cache/bases" -mindepth 1 -maxdepth 1 ! -name "$base_key.tar" -exec rm -rf {} +
    trap finish EXIT
    [ -e /var/lib/containers ] || no_containers=yes
    printf '[storage]\ndriver = "overlay"\ngraphroot = "%s"\nrunroot = "%s"\n' "$store/images" "$store/run" >"$store/storage.conf"
    export CONTAINERS_STORAGE_CONF=$store/storage.conf TMPDIR=$store/tmp BUILDAH_ISOLATION=chroot

    # What killed builds left, and the layers of old sources: about 10 MB and 16 images for each change.
    buildah rm --all >/dev/null
    [ "$(buildah images --all --quiet | wc -l)" -lt 500 ] || step "old layers" buildah rmi --prune >/dev/null

    [ -f "$cache/bases/$base_key.tar" ] || step "Debian with Python" make_base "$cache/bases/$base_key.tar"
    buildah images -q localhost/python:3.11 >/dev/null 2>&1 ||
        step "base image" import_base "$cache/bases/$base_key.tar"
    step "exfm's dependencies" build exfm-dependencies . --target pipelines-dependencies
    step "exfm-serving" build exfm-serving . --target serving
    step "exfm-pipelines" build exfm-pipelines . --target pipelines
    step "exfm-storage-initializer" build exfm-storage-initializer $here/storage-initializer
    step "archives" python3 $here/archive.py "$store/layout" "$out" \
        localhost/{exfm-dependencies,exfm-serving,exfm-pipelines,exfm-storage-initializer}:rig >"$out/images.txt"
    echo "$key" >"$out/images.key"
    cat "$out/images.txt"
}

digest() { sha256sum | cut -c1-16; }

# step NAME COMMAND...: run it; one line with its seconds, and what it wrote to stderr if it fails.
step() {
    local started=$SECONDS
    running=$1
    shift
    "$@" 2>"$cache/step.log"
    echo "$running: $((SECONDS - started)) s" >&2
    running=
}

finish() {
    [ -z "${running:-}" ] || { cat "$cache/step.log" >&2 && echo "$running: failed" >&2; }
    # A note about blobs that skopeo makes, wherever images are stored.
    [ -z "${no_containers:-}" ] || rm -rf /var/lib/containers
}

# Trimmed to what Python needs to start.
make_base() {
    SOURCE_DATE_EPOCH=1735689600 mmdebstrap --quiet --variant=minbase --include=ca-certificates,python3,python3-venv \
        --aptopt='Acquire::Retries "5"' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' bookworm "${1%.tar}-new.tar" >&2
    mv "${1%.tar}-new.tar" "$1"
}

import_base() {
    local container
    container=$(buildah from scratch)
    buildah add "$container" "$1" / >&2
    buildah config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin --cmd python3 "$container"
    buildah commit --quiet --rm --timestamp 0 "$container" localhost/python:3.11 >&2
}

# build NAME CONTEXT OPTION...: build localhost/NAME:rig and put it into the layout that archives are made from.
build() {
    local name=$1 context=$2 dockerfile=$2/Dockerfile
    [ "$context" != . ] || dockerfile=images/Dockerfile
    shift 2
    # The machine's own CAs, for the build alone.
    buildah bud --quiet --layers --pull-never --network host --ulimit nofile=20000:20000 --ulimit nproc=20000:20000 \
        --volume /etc/ssl/certs:/etc/ssl/certs:ro --build-arg BASE=localhost/python:3.11 \
        --file "$dockerfile" --tag "localhost/$name:rig" "$@" "$context" >&2
    # Not buildah push: that compresses every layer again, 40 s for torch's (2 vCPU, 2026-11).
    skopeo --insecure-policy copy --quiet --dest-oci-accept-uncompressed-layers \
        "containers-storage:localhost/$name:rig" "oci:$store/layout:localhost/$name:rig" >&2
}

main
exit

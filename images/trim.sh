#!/bin/sh
# Inside the build: remove from /opt/exfm what no running image needs, then prove that tensors and tables still work.
#
#   trim.sh cpu|cuda
#
# PyPI's torch for Linux is built for CUDA, and the loader wants every library that it is linked to, with a GPU or not.
# On a CPU the others go: those that only a GPU's code opens (cuDNN's engines, NVRTC's and cuSPARSE's companions). A torch
# built for CPUs alone (TORCH_INDEX) brings none.
set -eu
cd "$(/opt/exfm/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

# Headers, static libraries and tools of those who compile against torch and CUDA.
rm -rf torch/include torch/share torch/bin/protoc* nvidia/*/include
for package in torch nvidia; do
    [ ! -d $package ] || find $package -name '*.a' -delete
done

[ "$1" != cpu ] || rm -f torch/lib/libtorch_cuda_linalg.so torch/lib/libcaffe2_nvrtc.so
linked=$(find torch fbgemm_gpu -name '*.so' -exec ldd {} +)

if [ "$1" = cuda ]; then
    # FBGEMM loads only where the node's driver is: that all other libraries are here is what can be proven.
    for library in $(echo "$linked" | awk '/not found/ && !/libcuda\.so|libnvidia-ml\.so/ { print $1 }' | sort -u); do
        [ -n "$(find . -name "$library")" ] || { echo "trim.sh: $library is missing" >&2 && exit 1; }
    done
    exit
fi

if [ -d nvidia ]; then
    needed=$(echo "$linked" | grep -o '/[^ ]*/nvidia/[^ ]*' | sort -u | xargs realpath)
    find "$PWD/nvidia" -type f ! -name '*.py' ! -name '*.pyc' | grep -vxF "$needed" | xargs rm -f
fi

/opt/exfm/bin/python - <<'PYTHON'
import fbgemm_gpu.split_table_batched_embeddings_ops_training as fbgemm
import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation

specs = [(4, 4, EmbeddingLocation.HOST, fbgemm.ComputeDevice.CPU)]
lookup = fbgemm.SplitTableBatchedEmbeddingBagsCodegen(embedding_specs=specs, learning_rate=0.1)
weight_HD = lookup.split_embedding_weights()[0].copy_(torch.arange(16.0).reshape(4, 4))
pooled_BD = lookup(torch.tensor([1, 2, 3]), torch.tensor([0, 2, 3]))
assert pooled_BD.tolist() == [[12.0, 14.0, 16.0, 18.0], [12.0, 13.0, 14.0, 15.0]], pooled_BD
torch.nn.Linear(4, 1)(pooled_BD).sum().backward()
assert weight_HD[0].tolist() == [0.0, 1.0, 2.0, 3.0] and weight_HD[1].tolist() != [4.0, 5.0, 6.0, 7.0], weight_HD
torch.cuda.is_available()  # answers, where a missing library would end the process
PYTHON

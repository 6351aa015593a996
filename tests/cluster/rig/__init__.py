"""A real Kubernetes with KServe and Kubeflow Trainer on this machine, without a registry: `python -m rig up | ...`.

Every daemon runs in process, mount and network namespaces of the rig's own, whose first process is `pause`. So the
machine sees one veth link, two routes and some processes; when the first process is killed, the kernel ends every
other one, unmounts, and removes links and nft tables. Nothing inside has a route off the machine.

Layers, top down: __main__, cluster, (images | health | supervisor), (sandbox | api), (processes | cgroups), (daemons |
certificates | kserve | trainer), (addons | webhooks), (binaries | configuration | debian), (layout | waiting |
progress | errors).
"""

"""`exfm bench serving`: sharded serving beside unsharded, and beside other servers."""

import os

# Servers are started beside gRPC's threads, and are other programs at once: gRPC need not look after forks, and say so
# of each. It asks when it is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

"""`exfm bench serving`: sharded serving beside unsharded, and beside other servers."""

import os

# Servers are started beside gRPC's threads, but exec other programs at once: gRPC need not handle forks, nor warn of
# each. It reads this variable when it is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

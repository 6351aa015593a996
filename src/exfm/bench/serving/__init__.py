"""`exfm bench serving`: sharded serving beside unsharded, and beside other servers."""

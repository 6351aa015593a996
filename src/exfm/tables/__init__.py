"""Delta tables partitioned by window, which hold what is done. Each commit happens once."""

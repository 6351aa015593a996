"""Tables of a run: Delta tables partitioned by window, which hold what is done, and each commit of which happens once."""

"""Tables of a run: Delta tables partitioned by window, which hold what is done, and whose commits happen once each."""

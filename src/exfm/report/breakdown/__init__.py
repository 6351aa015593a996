"""`exfm profile`: which layer of ranker and shards takes how much of a request's time, as a table and a picture."""

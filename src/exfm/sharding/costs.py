"""What a request costs: the service times of rankers and shards, and of the calls between them."""

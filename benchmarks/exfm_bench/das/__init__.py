"""`exfm bench das`: what tables of a log cost beside bare joins, in time and memory, and how that grows."""

"""The performance model: the cost of a placement's servers and their simulated latency, against a demand."""

"""What a placement costs: work, servers for a load, and offers that meet a demand."""

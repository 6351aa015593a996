"""What a plan will do under a load."""

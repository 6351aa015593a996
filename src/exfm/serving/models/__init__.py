"""What a server serves: models, and the parts of a bundle that they load."""

"""`exfm bench train`: examples a second and memory of training, beside other trainers of the same model."""

"""A plain model and other servers' ways to serve it; programs of their own, which import nothing of exfm."""

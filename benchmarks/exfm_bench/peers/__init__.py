"""A plain model and programs that serve it by other servers; they import nothing of exfm."""

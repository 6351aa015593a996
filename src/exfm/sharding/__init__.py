"""Where tables go, and the bundle that says so."""

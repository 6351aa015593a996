"""The protocol's REST form: JSON bodies, and the binary extension."""

"""From an old plan to a new one, with few bytes moved."""

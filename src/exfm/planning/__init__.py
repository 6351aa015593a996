"""Where tables go: statistics in, plans out, with what they cost and how fast they will be; no file, no tensor."""

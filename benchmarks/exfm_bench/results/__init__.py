"""`exfm bench results`: what distillation gains on public data and on made-up worlds, as one page."""

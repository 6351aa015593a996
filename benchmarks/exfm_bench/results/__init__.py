"""`exfm bench results`: what distillation gains on public data and on synthetic worlds, as one page."""

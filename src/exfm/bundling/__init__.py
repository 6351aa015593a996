"""The bundle: a vertical model's tables where their plan puts them, and all else that serving needs."""

"""The proposer: placements by each strategy, and those that `auto` chooses from."""

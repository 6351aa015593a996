"""The command line: one subcommand a stage, and `run` for all of them."""

"""One server's process: its command line, its model's servers and its shutdown."""

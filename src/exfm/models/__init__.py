"""Networks and embedding tables: what is trained, and what is served."""

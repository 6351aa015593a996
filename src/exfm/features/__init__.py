"""Raw columns to model inputs: the same code for the trainer's reader, the DAS scorer and the ranker."""

"""The foundation model: trained on all domains' stream, it teaches and never serves."""

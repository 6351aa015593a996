"""A comparison of distillation methods, as a table for a terminal and as a page with plots."""

"""Measurements of what the project promises."""

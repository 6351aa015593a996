"""Replanning: a new plan that moves few bytes from an old one."""

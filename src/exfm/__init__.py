"""Teach once, distil many, serve sharded: external foundation models and scale-out inference for ranking."""

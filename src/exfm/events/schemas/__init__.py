"""Schemas of the sources that exfm knows."""

from pathlib import Path

MOVIELENS = Path(__file__).with_name("movielens.yaml")
SYNTHETIC = Path(__file__).with_name("synthetic.yaml")

"""Schemas of the sources that exfm knows."""

from pathlib import Path

FOLDER = Path(__file__).parent
"""Has a schema for each data set of `exfm.events.datasets.NAMES`, `NAME.yaml`."""

MOVIELENS = Path(__file__).with_name("movielens.yaml")
SYNTHETIC = Path(__file__).with_name("synthetic.yaml")

"""Published data sets: `exfm ingest NAME` makes of their files what source kind `log` reads.

A module for each says how its files are written; `NAMES` says which there are, and loads none of them.
"""

from collections.abc import Mapping

NAMES: Mapping[str, str] = {
    "taobao": "Taobao display ads, raw (Tianchi 56): a folder with raw_sample.csv, ad_feature.csv, user_profile.csv, "
    "maybe behavior_log.csv.",
    "taobao_x1": "TaobaoAd_x1 of BARS: a folder with train.csv and test.csv.",
    "kuaivideo_x1": "KuaiVideo_x1 of BARS: a folder with train.csv and test.csv.",
    "amazon_electronics_x1": "AmazonElectronics_x1 of BARS: a folder with train.csv and test.csv.",
    "criteo_kaggle": "Criteo's Kaggle challenge, raw: train.txt.",
    "criteo_x4": "Criteo_x4 of BARS: a folder with train.csv, valid.csv and test.csv.",
    "criteo_delayed_feedback": "Criteo's delayed feedback (Chapelle 2014): data.txt.",
    "criteo_attribution": "Criteo's attribution data set: criteo_attribution_dataset.tsv.gz.",
    "avazu": "Avazu's Kaggle challenge: train.csv or train.csv.gz.",
    "open_bandit": "the Open Bandit Dataset: a folder with bts and random, each with all, men and women.",
}
"""The data sets by name, and what each is made of. Files may end in .gz or .bz2, too."""

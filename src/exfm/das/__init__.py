"""The data augmentation system: labels by attribution, pseudo-labels by the teacher, both joined to the features."""

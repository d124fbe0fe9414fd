"""Trained weights as files: the checkpoint format, the preprocessing contract, registry, cache, other people's layouts."""

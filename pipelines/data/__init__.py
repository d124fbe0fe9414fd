"""Labelled faces for training: labels, splits, images, sampling."""

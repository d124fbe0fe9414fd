"""Training: losses, attention-guided augmentation, the loop."""

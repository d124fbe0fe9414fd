"""Multi-attentional Deepfake Detection (Zhao et al., CVPR 2021), read bottom-up: attention, texture, pooling, network."""

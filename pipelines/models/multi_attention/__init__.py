"""Multi-attentional Deepfake Detection (Zhao et al., CVPR 2021).

Read bottom-up: config, attention, texture, pooling, heads, network.
"""

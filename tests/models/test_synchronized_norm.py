"""Batch norms that share their statistics between GPUs keep everything else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipelines.models import build_model
from pipelines.models.backbone import synchronize_batch_norm
from tests.networks import random_images, settle


@pytest.mark.parametrize("model", ["multi-attention/paper", "multi-attention/reference"])
def test_synchronizing_batch_norms_changes_no_result(model: str) -> None:
    torch.manual_seed(0)
    network = build_model(model, backbone="mobilenetv2_imagenet", padding="same")
    images = random_images(4, 64)
    settle(network, lambda: network(images))
    with torch.inference_mode():
        before = network(images).logits
        names = list(network.state_dict())
        synchronized = synchronize_batch_norm(network).eval()
        assert torch.equal(synchronized(images).logits, before)
    assert list(synchronized.state_dict()) == names
    norms = [module for module in synchronized.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert norms and all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)

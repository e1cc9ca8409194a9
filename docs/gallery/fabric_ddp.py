"""Train in a loop of your own on several devices: `torchrun --nproc_per_node 2 fabric_ddp.py`."""

from pathlib import Path

import torch
from lightning_fabric import Fabric

import wrp
from wrp.data.synthetic.folder import generate_folder
from wrp.options import NetworkArgs, SelectArgs

fabric = Fabric()  # devices and strategy are those of torchrun
fabric.launch()
fabric.seed_everything(0)
scene = generate_folder(Path("scene"), num_frames=13, height=64, width=112)  # or a folder of yours
data = wrp.SegmentationData(root=str(scene), select=SelectArgs(label_every=6))
module = wrp.SegmentationModule(10, NetworkArgs("FPN", "tu-regnetx_002")).to(fabric.device)
net, optimizer = fabric.setup(module.net, torch.optim.AdamW(module.net.parameters(), 1e-3))
loader = fabric.setup_dataloaders(
    data.train_dataloader(), use_distributed_sampler=False
)  # it divides the frames itself
for step, batch in zip(range(2), loader, strict=False):
    loss = module.loss(net(batch.images / 255), batch.labels)
    optimizer.zero_grad()
    fabric.backward(loss)
    optimizer.step()
    print(f"process {fabric.global_rank}, step {step}: loss {loss.item():.2f}")

module.eval()
for batch in fabric.setup_dataloaders(data.val_dataloader(), use_distributed_sampler=False):
    module.val_score.update(module.probabilities(batch.images).argmax(1), batch.labels)
print(f"mIoU of all processes together: {100 * module.val_score.compute():.1f}")

"""Search a learning rate with optuna (extra `search`); `wrp search FILE` does it for sweep files of W&B."""

from pathlib import Path

import optuna
import pytorch_lightning as pl

import wrp
from wrp.data.synthetic.folder import generate_folder
from wrp.options import NetworkArgs, OptimizerArgs, SelectArgs

scene = generate_folder(Path("scene"), num_frames=13, height=64, width=112)  # or a folder of yours


def trial_score(trial: optuna.Trial) -> float:
    """Train once; return the mIoU on the held-out frames."""
    lr = trial.suggest_float("lr", 1e-4, 1e-2, log=True)
    pl.seed_everything(0)
    module = wrp.SegmentationModule(10, NetworkArgs("FPN", "tu-regnetx_002", scale=0.5), optimizer=OptimizerArgs(lr=lr))
    data = wrp.SegmentationData(root=str(scene), select=SelectArgs(label_every=6))
    trainer = pl.Trainer(
        max_epochs=2, limit_train_batches=1, limit_val_batches=4, logger=False, enable_checkpointing=False
    )
    trainer.fit(module, data)
    return float(trainer.callback_metrics["val/miou"])


study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
study.optimize(trial_score, n_trials=2)
print(f"best learning rate {study.best_params['lr']:.1e}, mIoU {study.best_value:.1f}")

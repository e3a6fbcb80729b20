"""Training, in reading order.

1. `job`, `trainer`: from a configuration to a training; the loop, and what surrounds it.
2. `optimizer`, `schedule`: which parameters decay, and how fast they learn.
3. `evaluation`, `sampling`: held-out loss and sample texts.
4. `checkpoint`, `run_folder`, `metrics`: what is written, so that a run can be stopped, continued and understood.
5. `report`: what a person sees.

`device`, `interrupt` and `files` are small parts of these.
"""

from baby_mamba.training.checkpoint import load_model
from baby_mamba.training.evaluation import Evaluation, evaluate
from baby_mamba.training.job import check_job, train_job
from baby_mamba.training.report import ConsoleReporter, Reporter, TrainingResult
from baby_mamba.training.trainer import Trainer

__all__ = [
    "ConsoleReporter",
    "Evaluation",
    "Reporter",
    "Trainer",
    "TrainingResult",
    "check_job",
    "evaluate",
    "load_model",
    "train_job",
]

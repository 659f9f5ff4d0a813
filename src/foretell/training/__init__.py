"""Training: from an episode store to a run folder with a checkpoint."""

from foretell.training.config import TrainConfig
from foretell.training.loop import train
from foretell.training.record import TrainRecord

__all__ = ["TrainConfig", "TrainRecord", "train"]

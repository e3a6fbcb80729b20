"""The errors that baby_mamba raises on purpose.

Each message says what was got, what was expected and what to do. The command line prints the message of a
`BabyMambaError` without a traceback and exits with status 2; anything else is a bug and keeps its traceback.
"""


class BabyMambaError(Exception):
    """Base class of every error raised on purpose."""


class ConfigError(BabyMambaError, ValueError):
    """A configuration file, an override or a config dataclass holds something that is not allowed."""


class DataError(BabyMambaError, ValueError):
    """A corpus or a tokenizer cannot be read, or is too small for what is asked of it."""


class CheckpointError(BabyMambaError, RuntimeError):
    """A checkpoint or run folder is missing, damaged, foreign or not writable."""


class TrainingError(BabyMambaError, RuntimeError):
    """Training cannot go on, for example because the loss is NaN."""


class ShapeError(BabyMambaError, ValueError):
    """A tensor's shape, dtype or device is not what an operation expects."""


class BackendUnavailableError(BabyMambaError, RuntimeError):
    """The backend that was asked for by name cannot run here."""

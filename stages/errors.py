"""Every mistake a user can make, one family: the message says found, expected, what to do."""


class TerrastageError(Exception):
    """A mistake in the inputs, told in one sentence and without a traceback."""


class SettingError(TerrastageError):
    """A setting is unknown, of the wrong type or out of range."""


class SceneError(TerrastageError):
    """A scene cannot be read, placed or combined with the others."""


class DataError(TerrastageError):
    """A file is not what its format says."""


class LabelError(TerrastageError):
    """The labels cannot be read, placed or divided into splits."""


class LeakError(TerrastageError):
    """A held-out label or pixel would reach the training."""


class ModelError(TerrastageError):
    """A model folder is incomplete or does not fit the tiles."""


class DivergedError(ModelError):
    """A training whose loss or weights are no longer numbers."""


class ArtifactError(TerrastageError):
    """An artifact is missing, damaged or cannot be written."""


class BusyError(TerrastageError):
    """Another run holds the area or the schedule."""

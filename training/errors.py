"""Errors of the training, each one sentence with its remedy."""


class TrainingError(Exception):
    """The base class: the command line prints it as one sentence and exits with 1."""


PACKAGES = "espeak-ng flite festival festvox-kdlpc16k"


class MissingProgramError(TrainingError):
    """A synthesiser is not installed."""

    def __init__(self, program: str) -> None:
        super().__init__(f"{program} is not installed; install it with: apt-get install {PACKAGES}")


class MissingDataError(TrainingError):
    """A stage was started before the stage that makes its input."""

    def __init__(self, path: object, command: str) -> None:
        super().__init__(f"{path} does not exist; make it with: python -m training {command}")

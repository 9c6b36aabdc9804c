"""The one error hierarchy. Every error says what is wrong, where, and what to do next."""


class BinmillError(Exception):
    """A failure a user can act on; the command line prints it without a traceback.

    Parameters
    ----------
    problem
        What is wrong, naming the file or the field.
    remedy
        What to do next.
    """

    exit_code = 1

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem}\n  → {self.remedy}"


class RecipeError(BinmillError):
    """A recipe that cannot be read, or asks for something impossible."""

    exit_code = 2


class SourceError(BinmillError):
    """A source that cannot be reached, fetched or opened as a whole."""

    exit_code = 3


class ToleranceError(BinmillError):
    """More inputs failed than the recipe tolerates."""

    exit_code = 4


class DatasetError(BinmillError):
    """A dataset that is missing, damaged, locked or of another version."""

    exit_code = 5


class LockedError(DatasetError):
    """A dataset that another run is writing."""


class QueryError(BinmillError):
    """A query that the dataset cannot answer."""

    exit_code = 6


class WorkerError(BinmillError):
    """A work item that could not be finished: its worker died, or too little memory was given."""

    exit_code = 7

"""The error of this room."""


class HubError(ValueError):
    """A model, a pipeline or a folder cannot be used. The message names the problem and the remedy."""

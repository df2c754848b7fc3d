"""The one exception that speaks to a user."""


class RelevancyError(Exception):
    """A mistake in what the user gave, or a limit of the machine, in one line that says what to do."""

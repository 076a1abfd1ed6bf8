"""What a command cannot do, in one sentence. It does not know which commands there are."""


class Problem(Exception):
    """The command ends with this message and code 1."""

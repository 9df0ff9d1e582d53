"""What an export says when it cannot be done, or did not pass."""


class ExportError(RuntimeError):
    """Something cannot be exported, or what was exported is wrong; the message says what to do."""

"""What goes wrong in a lab."""


class LabError(RuntimeError):
    """Something that the lab started or asked for failed; the text says what, where and why."""

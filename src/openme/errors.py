"""What a user is told when something cannot be done."""


class OpenmeError(Exception):
    """One line for the user, lower case and without a full stop, and perhaps a hint with the cure.

    `exit_code` follows spec config.md "Commands": 1 failed or refused, 2 wrong usage, 3 the door is shut.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None, *, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if exit_code is not None:
            self.exit_code = exit_code


class FirewallError(OpenmeError):
    """The firewall, or the part of the kernel below it, refused: nothing of what was asked has happened.

    One line for the operator, with a cure.
    """

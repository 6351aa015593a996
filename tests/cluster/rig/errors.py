"""What the rig says when it cannot go on.

RigError
└── MissingError    the machine lacks something that the rig cannot bring: root, Go, Debian
"""


class RigError(Exception):
    """The rig cannot do what was asked; the message says why and what to do. Exit code 1."""

    exit_code = 1


class MissingError(RigError):
    """This machine cannot carry a rig. Exit code 2."""

    exit_code = 2

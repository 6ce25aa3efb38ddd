"""The error tree: everything that FrankenStream raises on purpose.

    FrankenError
     ├── ConfigError                    a setting or flag is wrong                     (exit 2)
     ├── InputError                     source, image, video, recording or data set    (exit 3)
     ├── TransportError                 the network: refused, unreachable, in use      (exit 4)
     ├── ProtocolError                  the wire contract was broken                   (exit 4)
     │    ├── LocalProtocolError          by our own code: a bug on this side
     │    └── RemoteProtocolError         by the peer: close its session, nothing else
     ├── BundleError                    a bundle, a head or weights do not fit         (exit 5)
     ├── BitstreamError                 a frame's bytes do not decode                  (exit 5)
     └── EngineError                    a model could not be built or run              (exit 5)

Each message is one line: what happened, the value seen, the limit or expectation, what to do. Example:
`payload is 2097153 bytes, limit 2097152: raise wire.payload_bytes_max or lower the rate`.
`assert` is for our own bugs; these are for users and peers.
"""

from __future__ import annotations

import errno


def disk_is_full(error: OSError) -> bool:
    """Whether there is no room, or none that this user may take."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def reason_of(error: OSError) -> str:
    """What the system says was wrong, for the end of a line."""
    return "the disk is full" if disk_is_full(error) else error.strerror or str(error)


class FrankenError(Exception):
    """Root of the tree. `exit_code` is what the command line ends with."""

    exit_code = 1


class ConfigError(FrankenError):
    """A setting, flag, environment variable or configuration file is wrong."""

    exit_code = 2


class InputError(FrankenError):
    """A source, image, video, recording or data set cannot be read."""

    exit_code = 3


class TransportError(FrankenError):
    """The network: address in use, unreachable, key refused, link gone."""

    exit_code = 4


class ProtocolError(FrankenError):
    """The wire contract (docs/protocol.md) was broken."""

    exit_code = 4


class LocalProtocolError(ProtocolError):
    """This side asked the session for something that its state does not allow: a bug here."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something that the contract does not allow. Closes that session only."""


class BundleError(FrankenError):
    """A bundle, a head or a weight file is missing, damaged or does not fit."""

    exit_code = 5


class BitstreamError(FrankenError):
    """A frame's bytes do not decode: damaged, cut, hostile, or for another codec."""

    exit_code = 5


class EngineError(FrankenError):
    """A model could not be built, loaded or run."""

    exit_code = 5

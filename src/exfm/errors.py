"""Every error that exfm raises for its callers.

    ExfmError                      exit code   gRPC status          HTTP
    ├── ConfigError                2                                      a setting, or a file of settings
    │   └── SchemaError            2                                      the schema of a log, a model or a bundle
    ├── DataError                  2           INVALID_ARGUMENT     400   rows or columns of events and examples
    ├── StorageError               2                                      a file, folder or manifest of a stage
    │   └── BundleError            2                                      a served bundle
    ├── PlanError                  2                                      a placement of tables on shards
    ├── RequestError               2           INVALID_ARGUMENT     400   what a client sent
    │   ├── BodyTooLargeError      2           INVALID_ARGUMENT     413   more bytes than a server reads
    │   ├── EncodingError          2           INVALID_ARGUMENT     415   compressed in a way that no server reads
    │   ├── KeysOutsideSliceError  2           INVALID_ARGUMENT     400   keys that a shard does not hold
    │   ├── LookupTooLargeError    2           OUT_OF_RANGE         400   more than a shard gives at once
    │   ├── UnknownModelError      2           NOT_FOUND            404
    │   └── VersionMismatchError   2           FAILED_PRECONDITION  412   ranker and shard hold different bundles
    ├── StageError                 3                                      a step of a pipeline; or its error's exit code
    │   └── StoppedError           3                                      a run ended by a signal; 128 + its number
    ├── PromotionError             3                                      a version that is worse than the champion
    ├── DeployError                3                                      a version on a cluster
    │   ├── ClusterError           3                                      an API server that refuses, or is not there
    │   ├── CapacityError          3                                      quota or nodes too small for a rollout
    │   └── RolloutError           3                                      servers that do not become ready
    └── ServingError               3
        ├── NotReadyError          3           UNAVAILABLE          503   a ranker with golden scores not yet compared
        ├── ShardUnavailableError  3           UNAVAILABLE          503
        ├── OverloadedError        3           RESOURCE_EXHAUSTED   429   more requests than a server can answer
        │   └── UnfinishedError    3           RESOURCE_EXHAUSTED   429   closed: too many requests were unfinished
        └── DeadlineError          3           DEADLINE_EXCEEDED    504
            └── StalledError       3           DEADLINE_EXCEEDED    504   a request whose body stopped or was too slow

A message names the thing, what was found, what was expected, and what to do.
"""


class ExfmError(Exception):
    """The root: catch it to catch every error that a caller can correct."""

    exit_code = 2


class ConfigError(ExfmError):
    """A setting is missing, unknown or out of its bounds."""


class SchemaError(ConfigError):
    """A schema contradicts itself, or the data or bundle that it is used with."""


class DataError(ExfmError):
    """Events or examples lack a column, or hold values that no rule of the schema allows."""


class StorageError(ExfmError):
    """A stage's file, folder or manifest is missing, damaged or already there."""


class BundleError(StorageError):
    """A bundle is incomplete, damaged, or of a format that this version cannot read."""


class PlanError(ExfmError):
    """Tables cannot be placed on shards by these settings."""


class RequestError(ExfmError):
    """A request does not fit the schema, or cannot be computed."""


class BodyTooLargeError(RequestError):
    """A body is larger than a server reads, as it came or once it is expanded."""


class EncodingError(RequestError):
    """A body is compressed in a way that servers do not read."""


class KeysOutsideSliceError(RequestError):
    """A shard got keys that it does not hold. The error has their number and table, for the metric."""

    def __init__(self, message: str, *, table: str, num_keys: int) -> None:
        super().__init__(message)
        self.table = table
        self.num_keys = num_keys


class LookupTooLargeError(RequestError):
    """A lookup is over a shard's limits: the ranker's client must send its request in parts."""


class UnknownModelError(RequestError):
    """A request names a model that is not served here."""


class VersionMismatchError(RequestError):
    """A request is meant for another bundle than the one served here."""


class StageError(ExfmError):
    """A step of a pipeline failed in its own process; the exit code is that of its error, if it was one of ours."""

    exit_code = 3

    def __init__(self, message: str, *, exit_code: int = exit_code) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class StoppedError(StageError):
    """A signal ended a run; the exit code is 128 plus the signal's number, as of a shell."""


class PromotionError(ExfmError):
    """A registered version does not pass against the champion."""

    exit_code = 3


class DeployError(ExfmError):
    """A version could not be deployed or removed."""

    exit_code = 3


class ClusterError(DeployError):
    """The API server cannot be reached, or refuses a request."""


class CapacityError(DeployError):
    """The namespace's quota or the nodes cannot hold the old and the new version together."""


class RolloutError(DeployError):
    """A version's servers did not become ready; what served before serves on."""


class ServingError(ExfmError):
    """A server could not answer a valid request."""

    exit_code = 3


class NotReadyError(ServingError):
    """A request came before the model was ready."""


class ShardUnavailableError(ServingError):
    """A shard that the answer needs cannot be reached."""


class OverloadedError(ServingError):
    """A server has more requests under way than it can answer in time, and refuses this one at once."""


class UnfinishedError(OverloadedError):
    """A request was closed before its body was complete, because too many requests were unfinished."""


class DeadlineError(ServingError):
    """The time that the caller allowed is used up."""


class StalledError(DeadlineError):
    """A request's body stopped, or took too long to arrive."""

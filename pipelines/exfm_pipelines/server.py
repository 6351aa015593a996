"""A Kubeflow Pipelines server, and a run's pipeline there."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any

import kfp
import kfp_server_api
import urllib3

from exfm.errors import ConfigError
from exfm_pipelines.compile import version_name


class Client(kfp.Client):  # type: ignore[misc]  # kfp has no types
    """A client that fails at once, with the server's answer; kfp's own retries for 20 s and hides the answer."""

    def get_kfp_healthz(self, sleep_duration: int = 0) -> kfp_server_api.V2beta1GetHealthzResponse:
        """Return the server's health; `sleep_duration` is kfp's, and not used.

        Raises: ApiException.
        """
        return self._healthz_api.healthz_service_get_healthz()

    def create_pipeline(self, name: str, *, namespace: str) -> str:
        """Return the id of a new pipeline without a version, which kfp's own upload names itself."""
        pipeline = kfp_server_api.V2beta1Pipeline(display_name=name, namespace=namespace or None)
        return str(self._pipelines_api.pipeline_service_create_pipeline(pipeline).pipeline_id)


@dataclass(frozen=True)
class Server:
    """Address of a server, and the credentials for it."""

    host: str = ""
    """URL; empty: what kfp finds, a kubeconfig's cluster."""
    token: str = ""
    """Bearer token; empty: what kfp finds, such as a pod's own."""
    namespace: str = ""
    """That of a profile, in multi-user mode; empty: single-user mode."""

    @cached_property
    def client(self) -> Client:
        """Return a client. Raises: as kfp does; see `asking`."""
        return Client(host=self.host or None, existing_token=self.token or None)

    @contextmanager
    def asking(self, what: str) -> Iterator[Client]:
        """Yield a client, without kfp's output: a warning about old servers, and links that do not work.

        Raises: ConfigError with `what` it did not do, if the server cannot be reached or refuses.
        """
        try:
            with warnings.catch_warnings(), redirect_stdout(StringIO()):
                warnings.filterwarnings("ignore", message="This client only works", category=FutureWarning)
                yield self.client
        except (kfp_server_api.ApiException, urllib3.exceptions.HTTPError, ValueError) as error:
            raise ConfigError(
                f"Kubeflow Pipelines at {self.host or 'the current cluster'} did not {what}: {first_line(error)}; "
                "check --host, --token and --namespace"
            ) from error

    def find_pipeline(self, name: str) -> str | None:
        """Return the id of a pipeline; None: there is none. Raises: as kfp does."""
        found = self.client.list_pipelines(filter=named(name), namespace=self.namespace or None).pipelines
        return str(found[0].pipeline_id) if found else None

    def upload(self, package: Path) -> tuple[str, str]:
        """Return the ids of a package's pipeline, and of the version that it is; both are made if they are not there.

        Raises: as kfp does.
        """
        client, version = self.client, version_name(package)
        pipeline_id = self.find_pipeline(package.stem) or client.create_pipeline(package.stem, namespace=self.namespace)
        found = client.list_pipeline_versions(pipeline_id, filter=named(version)).pipeline_versions
        uploaded = found[0] if found else client.upload_pipeline_version(str(package), version, pipeline_id=pipeline_id)
        return pipeline_id, str(uploaded.pipeline_version_id)

    def experiment(self, name: str) -> str:
        """Return the id of an experiment, which is made if it is not there. Raises: as kfp does."""
        return str(self.client.create_experiment(name, namespace=self.namespace or None).experiment_id)


def named(name: str) -> str:
    """Return the filter of lists for a name."""
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})


def failures(run: Any) -> list[str]:
    """Return what a run's steps failed of, a line each."""
    tasks = run.run_details.task_details if run.run_details else None
    return [f"{task.display_name}: {task.error.message}" for task in tasks or [] if task.error]


def first_line(error: Exception) -> str:
    """Return what people read of an error."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)

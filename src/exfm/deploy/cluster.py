"""A client of the cluster's API server with what a deployment needs: list, get, apply and delete objects.

It uses plain paths instead of kubernetes' generated classes. Objects stay plain JSON, so that a diff shows every field,
and no discovery is needed, for which a narrow Role has no right.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import kubernetes
import urllib3
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException

from exfm.deploy.objects import BUDGET_KIND, ISVC_API, ISVC_KIND, MANAGER, Object
from exfm.errors import ClusterError

_PATHS = {
    ISVC_KIND: f"/apis/{ISVC_API}/namespaces/{{namespace}}/inferenceservices",
    "Service": "/api/v1/namespaces/{namespace}/services",
    BUDGET_KIND: "/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets",
    "Deployment": "/apis/apps/v1/namespaces/{namespace}/deployments",
    "Pod": "/api/v1/namespaces/{namespace}/pods",
    "Event": "/api/v1/namespaces/{namespace}/events",
    "ServiceAccount": "/api/v1/namespaces/{namespace}/serviceaccounts",
    "ServingRuntime": "/apis/serving.kserve.io/v1alpha1/namespaces/{namespace}/servingruntimes",
    "ResourceQuota": "/api/v1/namespaces/{namespace}/resourcequotas",
    "TrainJob": "/apis/trainer.kubeflow.org/v1alpha1/namespaces/{namespace}/trainjobs",
    "ClusterTrainingRuntime": "/apis/trainer.kubeflow.org/v1alpha1/clustertrainingruntimes",
    "SelfSubjectRulesReview": "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
    "Node": "/api/v1/nodes",
    "every Pod": "/api/v1/pods",
}

_INSTALL = {"serving.kserve.io": "install KServe 0.20 or later", "trainer.kubeflow.org": "install Kubeflow Trainer 2.3"}
"""What to do if a cluster lacks the kinds of an API group."""

POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
"""File in a pod with the name of its namespace."""

_RETRIES = urllib3.Retry(
    total=8,
    backoff_factor=0.5,
    backoff_max=8,
    allowed_methods=None,  # all requests here may be repeated: reads, applies, deletes, and creations by a fixed name
    status_forcelist=(429, 500, 502, 503, 504),
    raise_on_status=False,
)
"""About half a minute in all, in which an API server restarts."""

REQUEST_TIMEOUT_S = 30


class Cluster:
    """One namespace of a cluster."""

    def __init__(self, client: kubernetes.client.ApiClient, *, namespace: str) -> None:
        self._client = client
        self.namespace = namespace

    @classmethod
    def connect(cls, *, namespace: str, context: str = "") -> Self:
        """Return the cluster of a kubeconfig's context (empty: its current one), or the one that this pod runs in.

        Raises: ClusterError if there is neither.
        """
        configuration = kubernetes.client.Configuration()
        configuration.retries = _RETRIES
        try:
            if "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ and not context:
                kubernetes.config.load_incluster_config(client_configuration=configuration)
            else:
                kubernetes.config.load_kube_config(context=context or None, client_configuration=configuration)
        except ConfigException as error:
            raise ClusterError(f"no cluster is configured: {error}; set KUBECONFIG, or run in a pod") from error
        return cls(kubernetes.client.ApiClient(configuration), namespace=namespace)

    @property
    def configuration(self) -> Any:
        """Return how to reach the API server, for other clients that are made of kubernetes'."""
        return self._client.configuration

    def find(self, kind: str, *, labels: Mapping[str, str] | None = None, fields: str = "") -> list[Object]:
        """Return the namespace's objects of a kind with these labels.

        Raises: ClusterError.
        """
        query = []
        if labels:
            query.append(("labelSelector", ",".join(f"{key}={value}" for key, value in labels.items())))
        if fields:
            query.append(("fieldSelector", fields))
        found: list[Object] = []
        page = ""
        while True:
            more = [("limit", 500), *([("continue", page)] if page else [])]
            answer = self._call("GET", kind, query=[*query, *more])
            found += answer["items"]
            page = answer["metadata"].get("continue", "")
            if not page:
                return found

    def get(self, kind: str, name: str) -> Object | None:
        """Return an object, or None if there is none of that name.

        Raises: ClusterError.
        """
        try:
            return self._call("GET", kind, name=name)
        except _NotFoundError:
            return None

    def apply(self, object_: Object, *, dry_run: bool = False) -> Object:
        """Apply an object server-side, as the only manager of its fields, and return the result.

        Raises: ClusterError.
        """
        query = [("fieldManager", MANAGER), ("force", "true"), *([("dryRun", "All")] if dry_run else [])]
        return self._call("PATCH", object_["kind"], name=object_["metadata"]["name"], query=query, body=object_)

    def create(self, object_: Object) -> None:
        """Create an object; one of its name that exists stays as it is.

        Raises: ClusterError.
        """
        try:
            self._call("POST", object_["kind"], body=object_)
        except _ExistsError:
            return

    def delete(self, kind: str, name: str, *, owned_first: bool = True) -> None:
        """Delete an object and what it owns; an object that is gone already is not an error.

        `owned_first`: the object is there until what it owns is gone.

        Raises: ClusterError.
        """
        try:
            policy = "Foreground" if owned_first else "Background"
            self._call("DELETE", kind, name=name, query=[("propagationPolicy", policy)])
        except _NotFoundError:
            return

    def own_rules(self) -> tuple[list[Object], bool]:
        """Return what this account may do in the namespace, as rules of a Role, and whether these are all.

        Raises: ClusterError.
        """
        kind = "SelfSubjectRulesReview"
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": kind,
            "spec": {"namespace": self.namespace},
        }
        status = self._call("POST", kind, body=review)["status"]
        return status["resourceRules"], not status.get("incomplete", False)

    def _call(self, method: str, kind: str, *, name: str = "", query: Any = (), body: Object | None = None) -> Object:
        path = _PATHS[kind].format(namespace=self.namespace) + (f"/{name}" if name else "")
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/apply-patch+yaml" if method == "PATCH" else "application/json"
        with _reporting(
            f"{method} {kind}" + (f" {name}" if name else ""), kind=kind, host=self._client.configuration.host
        ):
            answer: Object = self._client.call_api(
                path,
                method,
                query_params=list(query),
                header_params=headers,
                body=body,
                response_type="object",
                auth_settings=["BearerToken"],
                _return_http_data_only=True,
                _request_timeout=REQUEST_TIMEOUT_S,
            )
            return answer


class ForbiddenError(ClusterError):
    """The caller's account has no right to do this."""


def pod_namespace() -> str:
    """Return the namespace of the pod that this process runs in.

    Raises: ClusterError if it runs in none.
    """
    try:
        return POD_NAMESPACE.read_text().strip()
    except FileNotFoundError as error:
        raise ClusterError(
            f"this process is in no pod with a token: {POD_NAMESPACE} does not exist; run it as a step of a pipeline"
        ) from error


def find_permitted(cluster: Cluster, kind: str) -> list[Object] | None:
    """Return all objects of a kind, or None if the account has no right to list them.

    Raises: ClusterError.
    """
    try:
        return cluster.find(kind)
    except ForbiddenError:
        return None


class _NotFoundError(ClusterError):
    """There is no such object, or no such kind."""


class _ExistsError(ClusterError):
    """There is an object of that name already."""


@contextmanager
def _reporting(doing: str, *, kind: str, host: str) -> Iterator[None]:
    """Turn errors of the API server into a ClusterError that names the request and what to do."""
    try:
        yield
    except ApiException as error:
        message = _message(error)
        if error.status == 403 and " cannot " in message:  # the authorizer's; quotas and admission write others
            role = "exfm-trainer" if "trainer.kubeflow.org" in _PATHS[kind] else "exfm-deployer"
            raise ForbiddenError(f"{doing} is refused: {message}; the account needs Role {role}") from error
        if error.status == 401:
            raise ClusterError(
                f"{doing} is refused: {message}; the kubeconfig's credentials are no longer valid"
            ) from error
        if error.status == 404 and message == "404 page not found":
            hints = (hint for group, hint in _INSTALL.items() if group in _PATHS[kind])
            hint = next(hints, "check that the kubeconfig names a cluster")
            raise ClusterError(f"the cluster has no API for {kind}: {hint}") from error
        if error.status == 404:
            raise _NotFoundError(f"{doing}: {message}") from error
        if error.status == 409 and doing.startswith("POST "):
            raise _ExistsError(f"{doing}: {message}") from error
        raise ClusterError(f"{doing} failed: {message}") from error
    except urllib3.exceptions.HTTPError as error:
        reason = getattr(error, "reason", None) or error
        raise ClusterError(
            f"the API server at {host} cannot be reached ({reason}); run the same command again"
        ) from error


def _message(error: ApiException) -> str:
    """Return the API server's message: that of a Status object, or the body's first line."""
    body = error.body or ""
    if isinstance(body, bytes):
        body = body.decode("utf-8", "replace")
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.strip().partition("\n")[0] or f"{error.status} {error.reason}"

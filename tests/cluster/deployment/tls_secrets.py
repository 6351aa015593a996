"""Secrets with certificates for rankers and shards, as cert-manager makes them."""

import base64
from typing import Any

import trustme
from operators import NAMESPACE


def tls_secrets(authority: trustme.CA) -> list[Any]:
    """Return the Secrets with certificates that this authority has just issued."""
    issued = {
        "exfm-shard-tls": authority.issue_cert(f"*.{NAMESPACE}.svc"),
        "exfm-ranker-tls": authority.issue_cert(f"ranker.{NAMESPACE}"),
    }
    return [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/tls",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "data": {
                key: base64.b64encode(value).decode()
                for key, value in {
                    "tls.crt": b"".join(blob.bytes() for blob in leaf.cert_chain_pems),
                    "tls.key": leaf.private_key_pem.bytes(),
                    "ca.crt": authority.cert_pem.bytes(),
                }.items()
            },
        }
        for name, leaf in issued.items()
    ]

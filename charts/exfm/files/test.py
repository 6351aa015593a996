"""`helm test` runs this in the servers' image: it checks that exfm's runtimes exist and that their code loads."""

import importlib
import json
import pathlib
import ssl
import sys
import urllib.request

TOKEN = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
NAMESPACE = (TOKEN / "namespace").read_text()

request = urllib.request.Request(
    f"https://kubernetes.default.svc/apis/serving.kserve.io/v1alpha1/namespaces/{NAMESPACE}/servingruntimes",
    headers={"Authorization": f"Bearer {(TOKEN / 'token').read_text()}"},
)
context = ssl.create_default_context(cafile=str(TOKEN / "ca.crt"))
with urllib.request.urlopen(request, timeout=20, context=context) as response:
    runtimes = {item["metadata"]["name"]: item["spec"] for item in json.load(response)["items"]}

for component in ("ranker", "shard"):
    name = f"exfm-{component}"
    if name not in runtimes:
        sys.exit(f"no ServingRuntime {name} in namespace {NAMESPACE}; found {sorted(runtimes) or 'none'}")
    container = runtimes[name]["containers"][0]
    importlib.import_module(container["command"][-1] + ".__main__")
    print(f"{name}: {container['image']}")

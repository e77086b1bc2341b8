# The worker, and every other `freshet` command: for a CPU, or with --build-arg DEVICE=cuda for an NVIDIA GPU.
ARG DEVICE=cpu

FROM python:3.11.13-slim-bookworm AS build-cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV TORCH=torch==2.13.0+cpu PIP_EXTRA_INDEX_URL=${TORCH_INDEX}

FROM python:3.11.13-slim-bookworm AS build-cuda
ENV TORCH=torch==2.13.0

FROM build-${DEVICE} AS build
ENV PIP_CACHE_DIR=/var/cache/pip
WORKDIR /src
RUN python -m venv /opt/freshet
COPY constraints/worker.txt constraints/
# The heavy layers first: they change with the constraints, not with the code.
RUN --mount=type=cache,target=/var/cache/pip \
    /opt/freshet/bin/pip install -c constraints/worker.txt "${TORCH}" transformers pyarrow
COPY pyproject.toml README.md LICENSE ./
COPY schemas schemas
COPY freshet freshet
COPY models models
COPY processors processors
COPY streams streams
RUN --mount=type=cache,target=/var/cache/pip \
    /opt/freshet/bin/pip install -c constraints/worker.txt "${TORCH}" ".[worker]"

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

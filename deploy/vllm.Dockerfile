# A vLLM server on the CPU with its weights inside: no model hub is needed at run time.
FROM python:3.11.13-slim-bookworm
ARG TORCH_INDEX=
# vLLM compiles small kernels at its start, and its wheel links to these.
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ libgomp1 libnuma1 libtcmalloc-minimal4 curl \
    && rm -rf /var/lib/apt/lists/*
RUN groupadd --gid 10001 freshet && useradd --uid 10001 --gid freshet --create-home freshet
WORKDIR /src
COPY models models
COPY deploy/prepare_llm.py deploy/prepare_llm.py
ENV FRESHET_HOME=/opt/freshet
RUN mkdir -p /opt/freshet && chown freshet:freshet /opt/freshet
USER freshet
RUN TORCH_INDEX=${TORCH_INDEX} PYTHONPATH=/src python deploy/prepare_llm.py
ENV PYTHONPATH=/src
EXPOSE 8000
ENTRYPOINT ["python", "deploy/prepare_llm.py", "--serve", "8000"]

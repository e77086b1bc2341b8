# The registry of the tests, where Karapace would be: it forgets with its container.
FROM python:3.11.13-slim-bookworm
RUN pip install --quiet --break-system-packages avro
COPY tests /opt/registry/tests
COPY karapace /opt/registry/karapace
ENV PYTHONPATH=/opt/registry
USER nobody

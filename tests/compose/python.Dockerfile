# What python:*-slim-bookworm offers to a build: `python`, pip, Debian's packages.
FROM freshet-test-debian:bookworm
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY wheels /opt/wheels
RUN ln -s python3 /usr/bin/python
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt PIP_FIND_LINKS=/opt/wheels PIP_DEFAULT_TIMEOUT=180
CMD ["python"]

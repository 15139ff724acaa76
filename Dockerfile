# One image for every part of the service; the command says which one a container is.
#
#   docker build -t image-classifier .
#   docker run --rm --init -p 127.0.0.1:8000:8000 -v classifier:/data image-classifier   # all of it

# One Debian release, so that a new one comes when we say so.
FROM python:3.11-slim-bookworm AS build
WORKDIR /app
# The environment has no pip of its own: the base image's installs into it.
RUN python -m venv --without-pip /opt/venv
# First what seldom changes: the next line is built again only with another lock.
COPY requirements/run.txt requirements/run.txt
RUN pip --python /opt/venv/bin/python --disable-pip-version-check install \
    --no-cache-dir --require-hashes -r requirements/run.txt
COPY . .
# Editable, as `make install` does it: models/ and migrations/ are found beside the packages. Then
# the build backend goes. The code belongs to root, so its bytecode has to be written now.
RUN pip --python /opt/venv/bin/python --disable-pip-version-check install \
        --no-cache-dir --no-deps --no-build-isolation --editable . \
    && pip --python /opt/venv/bin/python uninstall --yes \
        hatchling editables pathspec pluggy trove-classifiers \
    && /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash .

FROM python:3.11-slim-bookworm
# A fixed number, so that a volume belongs to the same user whichever release wrote it.
RUN useradd --system --uid 10001 --user-group --home-dir /data --shell /usr/sbin/nologin classify \
    && install --directory --owner=classify --group=classify --mode=0700 /data
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
ENV PATH=/opt/venv/bin:$PATH \
    CLASSIFIER_DATA_DIR=/data \
    CLASSIFIER_BIND=0.0.0.0:8000
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
ENTRYPOINT ["classify"]
CMD ["up"]

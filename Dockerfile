# The wheel and its locked dependencies on a Debian Python: not as root, with a read-only root
# file system if you like, and without a shell being needed.
#
#   docker build -t mirror .
#   docker run -p 5000:5000 -v mirror:/var/lib/mirror mirror
#
# BASE is any image with Python 3.11 or newer and its venv module; BUILD_BASE, where the packages
# are put together, must have the same Python at the same path. A package index of your own comes
# from the build's environment, as a secret that no layer keeps:
#   docker build --secret id=pip.conf,src=$HOME/.config/pip/pip.conf -t mirror .
ARG BASE=docker.io/library/python:3.13-slim
ARG BUILD_BASE=${BASE}

FROM ${BUILD_BASE} AS build
# otel.txt is runtime.txt with what sends traces.
ARG REQUIREMENTS=runtime.txt
COPY requirements /source/requirements
WORKDIR /source
ENV PIP_CONFIG_FILE=/run/secrets/pip.conf PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN --mount=type=secret,id=pip.conf \
    python3 -m venv /opt/build \
 && /opt/build/bin/pip install --no-deps --require-hashes -r requirements/build.txt \
 && python3 -m venv --without-pip /opt/mirror \
 && /opt/build/bin/pip --python /opt/mirror install --no-compile --no-deps --require-hashes \
      -r "requirements/${REQUIREMENTS}"
COPY . /source
# Bytecode is checked by content: it stays valid whatever times a copy of the layer gives the files.
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --no-index --wheel-dir /wheel . \
 && /opt/build/bin/pip --python /opt/mirror install --no-compile --no-deps --no-index /wheel/*.whl \
 && /opt/mirror/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/mirror/lib \
 && install -d /opt/mirror/share/sbom \
 && /opt/mirror/bin/python deploy/sbom.py /opt/mirror/share/sbom/mirror.cdx.json \
 && install -d -o 65532 -g 65532 -m 0700 /empty/mirror

FROM ${BASE}
ARG VERSION=0.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="mirror" \
      org.opencontainers.image.description="A pull-through caching mirror proxy for container registries" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/mirror /opt/mirror
# A new named volume takes its owner and mode from here.
COPY --from=build --chown=65532:65532 /empty /var/lib
ENV PATH=/opt/mirror/bin:$PATH PYTHONDONTWRITEBYTECODE=1 MIRROR_CACHE__DIRECTORY=/var/lib/mirror
USER 65532:65532
WORKDIR /var/lib/mirror
EXPOSE 5000
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s CMD ["mirror", "healthcheck"]
ENTRYPOINT ["mirror"]
CMD ["serve"]

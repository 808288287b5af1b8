# A plain image: the wheel and its locked dependencies on a Debian Python, not as root.
#
#   docker build -t mirror .
#   docker run -p 5000:5000 -v mirror:/var/lib/mirror mirror
#
# BASE is any image with Debian's or python.org's Python 3.11 or newer and its venv module.
ARG BASE=docker.io/library/python:3.13-slim

FROM ${BASE} AS build
COPY . /source
WORKDIR /source
RUN python3 -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir --no-deps --require-hashes -r requirements/build.txt \
 && /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheel . \
 && python3 -m venv /opt/mirror \
 && /opt/mirror/bin/pip install --no-cache-dir --no-deps --require-hashes -r requirements/runtime.txt \
 && /opt/mirror/bin/pip install --no-cache-dir --no-deps /wheel/*.whl

FROM ${BASE}
COPY --from=build /opt/mirror /opt/mirror
# A new named volume takes its owner and mode from here.
RUN install -d -o 65532 -g 65532 -m 0700 /var/lib/mirror
ENV PATH=/opt/mirror/bin:$PATH PYTHONDONTWRITEBYTECODE=1 MIRROR_CACHE__DIRECTORY=/var/lib/mirror
USER 65532:65532
WORKDIR /var/lib/mirror
EXPOSE 5000
ENTRYPOINT ["mirror"]
CMD ["serve"]

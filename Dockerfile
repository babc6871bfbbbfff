# An image whose cache of compiled code is warm: the first call of a new container does not compile.
#
#   docker build --tag nbnorm .
#   docker run --rm nbnorm demo
#
# Compiled code fits the kind of processor that it was made on: build the image where it will run, and
# elsewhere it compiles anew.
FROM python:3.12-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
ENV NUMBA_CACHE_DIR=/var/cache/nbnorm
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    python -m pip install --no-cache-dir /wheels/*.whl \
    && nbnorm warmup --shared \
    && useradd --create-home --uid 1000 user
USER 1000
ENTRYPOINT ["nbnorm"]
CMD ["info"]

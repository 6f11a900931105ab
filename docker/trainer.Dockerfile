# Adapts an engine to a catalogue, and retrains it on labels, on a GPU where there is one:
#   docker build -f docker/trainer.Dockerfile --build-arg PIP_EXTRA_INDEX_URL=URL .
#   docker run --rm -v catalog:/data image adapt /data/catalog --family compact --out /data/releases
# It installs 2.1 GB beside Python (benchmarks/images.py) with a CPU build of torch (751 MB): URL is PyTorch's own index of
# CPU builds, whose `+cpu` pip prefers. Without it pip takes what PyPI has, for Linux with CUDA, several GB more.
FROM python:3.11.14-slim-bookworm AS build
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /app
WORKDIR /source
COPY . .
RUN /app/bin/pip install --constraint docker/constraints.txt '.[train,feeds,labels,s3,tracking]' && /app/bin/pip uninstall --yes pip

FROM python:3.11.14-slim-bookworm
RUN groupadd --gid 10001 app && useradd --uid 10001 --gid app --no-create-home --shell /usr/sbin/nologin app \
    && install --directory --owner app --group app /data
COPY --from=build /app /app
ENV PATH=/app/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
USER 10001:10001
WORKDIR /data
VOLUME /data
ENTRYPOINT ["streamer"]
CMD ["adapt", "--help"]

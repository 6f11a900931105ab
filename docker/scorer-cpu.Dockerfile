# A scoring worker with the CPU engine and the release that ships: docker build -f docker/scorer-cpu.Dockerfile .
# It installs 336 MB beside Python (benchmarks/images.py): onnxruntime 80, numpy 71, botocore 22; no torch.
# Packages are pinned in constraints.txt; the base is named by its version, so what is built anew takes in Debian's fixes.
# Pin its digest where a build has to give the same bytes.
FROM python:3.11.14-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /app
WORKDIR /source
COPY . .
RUN /app/bin/pip install --constraint docker/constraints.txt '.[s3,tracing]' && /app/bin/pip uninstall --yes pip setuptools

FROM python:3.11.14-slim-bookworm
RUN groupadd --gid 10001 app && useradd --uid 10001 --gid app --no-create-home --shell /usr/sbin/nologin app \
    && install --directory --owner app --group app /data
COPY --from=build /app /app
ENV PATH=/app/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /tmp
EXPOSE 9102
ENTRYPOINT ["streamer"]
CMD ["score"]

# The drift watcher: docker build -f docker/drift.Dockerfile .
# It installs 473 MB beside Python (benchmarks/images.py): SciPy 143, onnxruntime 80, numpy 71; no torch.
FROM python:3.11.14-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /app
WORKDIR /source
COPY . .
RUN /app/bin/pip install --constraint docker/constraints.txt '.[drift,s3]' && /app/bin/pip uninstall --yes pip setuptools

FROM python:3.11.14-slim-bookworm
RUN groupadd --gid 10001 app && useradd --uid 10001 --gid app --no-create-home --shell /usr/sbin/nologin app
COPY --from=build /app /app
ENV PATH=/app/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /tmp
EXPOSE 9102
ENTRYPOINT ["streamer"]
CMD ["drift"]

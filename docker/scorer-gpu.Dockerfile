# A scoring worker for NVIDIA GPUs, and the job that builds its plans: docker build -f docker/scorer-gpu.Dockerfile .
#   docker run --rm --gpus all -v plans:/plans image compile --plans /plans
#   docker run --rm --gpus all -v plans:/plans -e STREAMER_ENGINE__PLANS=/plans image score
# TensorRT's libraries come from NVIDIA's index while it builds, some GB; the image's size is not measured. They and CUDA's
# bindings are pinned in pyproject.toml; what TensorRT itself asks for, CUDA's runtime, is not. The driver comes from the
# host. No torch.
FROM python:3.11.14-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /app
WORKDIR /source
COPY . .
RUN /app/bin/pip install --constraint docker/constraints.txt '.[gpu,s3,tracing]' && /app/bin/pip uninstall --yes pip setuptools

FROM python:3.11.14-slim-bookworm
RUN groupadd --gid 10001 app && useradd --uid 10001 --gid app --no-create-home --shell /usr/sbin/nologin app \
    && install --directory --owner app --group app /plans /data
COPY --from=build /app /app
ENV PATH=/app/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    STREAMER_ENGINE__RUNTIME=tensorrt STREAMER_ENGINE__PLANS=/plans
USER 10001:10001
WORKDIR /tmp
VOLUME /plans
EXPOSE 9102
ENTRYPOINT ["streamer"]
CMD ["score"]

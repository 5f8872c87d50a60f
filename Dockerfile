# Two images: `web` (also Flower, migrations, maintenance) without torch, `worker` with it.
#   docker build --target web .       docker build --target worker .
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=/app PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_PYTHON=/opt/venv/bin/python
# State has its folders here, so that fresh volumes belong to who writes to them.
RUN groupadd --gid 10001 app \
 && useradd --uid 10001 --gid 10001 --create-home --shell /usr/sbin/nologin app \
 && mkdir -p /data/state /data/uploads /data/models /data/scratch \
      /secrets/owner /secrets/app /secrets/postgres /secrets/redis /secrets/flower /secrets/grafana \
 && chown -R app:app /data /secrets
ENV STATE_DIR=/data/state UPLOAD_DIR=/data/uploads MODEL_CACHE_DIR=/data/models \
    SCRATCH_DIR=/data/scratch HOST=0.0.0.0
WORKDIR /app

FROM base AS web-packages
# For machines that cannot reach the package index: a folder or address of wheels.
ARG PIP_FIND_LINKS=
ARG PIP_TRUSTED_HOST=
COPY locks ./locks
RUN python -m venv --without-pip /opt/venv \
 && pip install --no-deps --require-hashes -r locks/web.txt
ENV PATH=/opt/venv/bin:$PATH

FROM web-packages AS worker-packages
ARG PIP_FIND_LINKS=
ARG PIP_TRUSTED_HOST=
# The CPU build of torch; empty for its default build, which brings CUDA on x86-64.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-deps --require-hashes -r locks/worker.txt \
 && (pip install --no-deps --require-hashes ${TORCH_INDEX:+--extra-index-url ${TORCH_INDEX}} \
       -r locks/torch-cpu.txt \
     || pip install --no-deps --require-hashes -r locks/torch.txt)
# numba writes compiled code where it can, and the file system is read-only
ENV NUMBA_CACHE_DIR=/tmp/numba

FROM web-packages AS web
COPY . .
USER 10001:10001
EXPOSE 8000
CMD ["python", "app.py"]

FROM worker-packages AS worker
COPY . .
USER 10001:10001
STOPSIGNAL SIGTERM
CMD ["python", "worker.py"]

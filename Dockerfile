# The images of Voxwright, one target each. docs/architecture/90-containers.md explains the design.
#   docker build --target runtime-cpu --tag voxwright-runtime-cpu .
#   docker build --target transcriber --tag voxwright-transcriber .
#   docker build --target service     --tag voxwright-service .
#   docker build --target builder     --tag voxwright-builder:26.08 .
#   docker build --target runtime     --tag voxwright-runtime:26.08-sm86 --build-arg ARCH=sm86 .
# Behind a proxy: --secret id=pip.conf,src=FILE and --secret id=ca.pem,src=FILE configure pip and are stored in no image.
# DEBIAN_IMAGE, UBUNTU_IMAGE and NVIDIA name the base images; they may name mirrors.
ARG PLATFORM=26.08
ARG DEBIAN_IMAGE=debian:bookworm-slim
ARG UBUNTU_IMAGE=ubuntu
ARG NVIDIA=nvcr.io/nvidia


# ---- Debian with Python, and the environments that are built on it
FROM ${DEBIAN_IMAGE} AS python
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/* \
 && useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin voxwright
# Python imports the packages from PYTHONPATH only: a file in a mounted working directory cannot replace one of them.
ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONPATH=/opt/voxwright \
    PYTHONSAFEPATH=1 \
    PYTHONDONTWRITEBYTECODE=1

FROM python AS environment
# The environment that is copied contains neither pip nor the tests of its packages.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3-venv \
 && rm -rf /var/lib/apt/lists/* \
 && python3 -m venv /opt/pip \
 && python3 -m venv --without-pip /opt/venv
WORKDIR /opt/project
COPY pyproject.toml requirements.lock ./
COPY images/requirements.py images/

FROM environment AS embedded-environment
# Only the tritonserver binary of nvidia-pytriton is used: the web stack that its Python API requires is not installed.
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=ca.pem,target=/etc/ca.pem \
    python3 images/requirements.py embedded > all.txt \
 && grep -v '^nvidia-pytriton' all.txt > packages.txt \
 && grep '^nvidia-pytriton' all.txt > server.txt \
 && /opt/pip/bin/pip --python /opt/venv install --no-cache-dir --constraint requirements.lock --requirement packages.txt \
 && /opt/pip/bin/pip --python /opt/venv install --no-cache-dir --constraint requirements.lock --no-deps --requirement server.txt \
 && find /opt/venv -depth -type d -name tests -exec rm -r {} +

# The search is compiled here, so that the image of the transcriber needs no compiler.
FROM python AS compiled-search
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
COPY contract /opt/voxwright/contract
COPY transcriber /opt/voxwright/transcriber
RUN python3 -m transcriber.native

FROM environment AS transcribe-environment
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=ca.pem,target=/etc/ca.pem \
    python3 images/requirements.py transcribe > packages.txt \
 && /opt/pip/bin/pip --python /opt/venv install --no-cache-dir --constraint requirements.lock --requirement packages.txt \
 && find /opt/venv -depth -type d -name tests -exec rm -r {} +


# ---- audio to text: a client, any CPU
FROM python AS transcriber
COPY --from=transcribe-environment /opt/venv /opt/venv
COPY contract /opt/voxwright/contract
COPY model_repository /opt/voxwright/model_repository
COPY transcriber /opt/voxwright/transcriber
COPY --from=compiled-search /opt/voxwright/transcriber/*.so /opt/voxwright/transcriber/
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="voxwright-transcriber" \
      org.opencontainers.image.description="Transcribes recordings with a Voxwright server" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
WORKDIR /recordings
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK NONE
ENTRYPOINT ["python3", "-m", "transcriber"]


# ---- the service for applications: a client, any CPU
FROM environment AS service-environment
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=ca.pem,target=/etc/ca.pem \
    python3 images/requirements.py transcribe service > packages.txt \
 && /opt/pip/bin/pip --python /opt/venv install --no-cache-dir --constraint requirements.lock --requirement packages.txt \
 && find /opt/venv -depth -type d -name tests -exec rm -r {} +

FROM python AS service
COPY --from=service-environment /opt/venv /opt/venv
COPY contract /opt/voxwright/contract
COPY model_repository /opt/voxwright/model_repository
COPY transcriber /opt/voxwright/transcriber
COPY service /opt/voxwright/service
COPY --from=compiled-search /opt/voxwright/transcriber/*.so /opt/voxwright/transcriber/
# Jobs live in /data: Docker gives a new volume the owner of this folder.
RUN install --directory --owner=10001 --group=10001 /data
# Other machines reach the container, so it demands keys.
# hadolint ignore=DL3064
ENV VOXWRIGHT_SERVICE_HOST=0.0.0.0 \
    VOXWRIGHT_SERVICE_API_KEYS=/run/secrets/api-keys \
    VOXWRIGHT_SERVICE_DATABASE=sqlite:////data/jobs.sqlite \
    VOXWRIGHT_SERVICE_STORAGE=/data/files \
    VOXWRIGHT_SERVICE_LOG_FORMAT=json
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="voxwright-service" \
      org.opencontainers.image.description="Serves applications with a Voxwright server" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
WORKDIR /data
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=3 CMD ["python3", "-m", "service.probe"]
ENTRYPOINT ["python3", "-m", "service"]


# ---- the server without a GPU: the tritonserver of nvidia-pytriton's wheel, and the bundle for arch cpu
FROM python AS runtime-cpu
# The server's backend loads Python as a library.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libpython3.11 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*
COPY --from=embedded-environment /opt/venv /opt/venv
COPY contract /opt/voxwright/contract
COPY model_repository /opt/voxwright/model_repository
COPY runtime /opt/voxwright/runtime
COPY dist/engines/embedded/cpu /opt/voxwright/engines/embedded/cpu
# All files are written below /tmp, where Triton's python backend also creates a folder: one tmpfs is enough.
# By default ONNX Runtime's wheel stores a device id and sends usage data to its vendor.
ENV ORT_DISABLE_TELEMETRY=1 \
    VOXWRIGHT_PLATFORM=embedded \
    VOXWRIGHT_ENGINES=/opt/voxwright/engines \
    VOXWRIGHT_REPOSITORY=/tmp/voxwright/repository
# The vendor's public key as text: the server then requires a licence that this key signed (docs/licence.md).
ARG VENDOR_KEY=""
RUN if [ -n "${VENDOR_KEY}" ]; then \
      mkdir -p /etc/voxwright && printf '%s\n' "${VENDOR_KEY}" > /etc/voxwright/vendor.pem \
      && python3 -m runtime.licence check-key /etc/voxwright/vendor.pem; \
    fi
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="voxwright-runtime-cpu" \
      org.opencontainers.image.description="Serves Voxwright's models on a CPU with Triton" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
WORKDIR /opt/voxwright
USER 10001:10001
EXPOSE 8000 8001 8002
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=10s --start-period=120s --retries=3 CMD ["python3", "-m", "runtime.probe", "--timeout", "5"]
ENTRYPOINT ["python3", "-m", "runtime"]


# ---- where engines are built: NVIDIA's TensorRT of the platform, on a host with a GPU of the architecture
FROM ${NVIDIA}/tensorrt:${PLATFORM}-py3 AS builder
WORKDIR /opt/project
COPY pyproject.toml requirements.lock ./
COPY images/requirements.py images/
# The environment includes the TensorRT of the base image. The image of 23.12 has Python 3.10 and is rejected here.
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=ca.pem,target=/etc/ca.pem \
    python3 -c 'import sys; sys.exit("error: Voxwright needs Python 3.11 or later" if sys.version_info < (3, 11) else 0)' \
 && python3 -m venv --without-pip --system-site-packages /opt/venv \
 && python3 images/requirements.py export build > packages.txt \
 && python3 -m pip --python /opt/venv install --no-cache-dir --constraint requirements.lock --requirement packages.txt \
 && /opt/venv/bin/python3 -c 'import tensorrt'
COPY contract /opt/voxwright/contract
COPY model_repository /opt/voxwright/model_repository
COPY export /opt/voxwright/export
COPY build /opt/voxwright/build
COPY demo/dialogue.flac /opt/voxwright/demo/dialogue.flac
COPY demo/dialogue.json /opt/voxwright/demo/dialogue.json
ENV ORT_DISABLE_TELEMETRY=1 \
    PATH=/opt/venv/bin:${PATH} \
    PYTHONPATH=/opt/voxwright \
    PYTHONSAFEPATH=1 \
    PYTHONDONTWRITEBYTECODE=1
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="voxwright-builder" \
      org.opencontainers.image.description="Exports Voxwright's graphs and builds engines from them" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# Mount a folder here: graphs are read from and bundles written to dist/ in it.
WORKDIR /voxwright
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK NONE
CMD ["python3", "-m", "build.engines", "--help"]


# ---- tritonserver out of NVIDIA's image, with only the libraries that it needs. The bases have that image's glibc.
FROM ${UBUNTU_IMAGE}:24.04 AS base-26.08
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*

FROM ${UBUNTU_IMAGE}:22.04 AS base-23.12
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3.11 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/* \
 && ln -s /usr/bin/python3.11 /usr/local/bin/python3

FROM ${NVIDIA}/tritonserver:26.08-py3 AS server-26.08
COPY images/gather.py /opt/gather.py
# DCGM reads the GPU's load and memory for the metrics, and opens its own modules at run time. Not its cuBLAS proxies: they
# are for diagnostics, and contain cuBLAS.
RUN --mount=type=bind,from=base-26.08,target=/base \
    python3 /opt/gather.py /slim --base /base --licence /opt/tritonserver/NVIDIA_Deep_Learning_Container_License.pdf --licence /NVIDIA_Deep_Learning_Container_License.pdf \
      --also 'libdcgm.so.*' --also 'libdcgmmodule*.so.*' \
      /opt/tritonserver/bin/tritonserver /opt/tritonserver/backends/tensorrt/libtriton_tensorrt.so

FROM ${NVIDIA}/tritonserver:23.12-py3 AS server-23.12
COPY images/gather.py /opt/gather.py
# TensorRT 8.6 opens cuBLAS and cuDNN at run time. Drivers older than 545 need CUDA's compatibility library.
RUN --mount=type=bind,from=base-23.12,target=/base \
    python3 /opt/gather.py /slim --base /base --licence /opt/tritonserver/NVIDIA_Deep_Learning_Container_License.pdf --licence /NVIDIA_Deep_Learning_Container_License.pdf \
      --also 'libdcgm.so.*' --also 'libdcgmmodule*.so.*' --also 'libcublas*.so.12' --also 'libcudnn*.so.8' \
      /opt/tritonserver/bin/tritonserver /opt/tritonserver/backends/tensorrt/libtriton_tensorrt.so
# The container toolkit looks for compat/libcuda.so.*.* only. NVIDIA's image has the library in lib.real; its entrypoint, which
# this image does not run, links lib to it. An image whose entrypoint ran has lib, and a Debian package of CUDA has neither.
RUN for folder in lib.real lib .; do \
      compat="/usr/local/cuda/compat/${folder}"; \
      if [ -n "$(find "${compat}/" -maxdepth 1 -name 'libcuda.so.*.*' 2>/dev/null)" ]; then break; fi; \
      compat=; \
    done \
 && if [ -z "${compat}" ]; then echo 'error: /usr/local/cuda/compat has no libcuda.so.*.* in lib.real, lib or itself' >&2; exit 1; fi \
 && mkdir -p /slim/usr/local/cuda/compat \
 && cp -P "${compat}"/lib*.so* /slim/usr/local/cuda/compat/

# hadolint ignore=DL3006
FROM server-${PLATFORM} AS server

# hadolint ignore=DL3006
FROM base-${PLATFORM} AS serve-environment
RUN apt-get update \
 && apt-get install --yes --no-install-recommends "$(basename "$(realpath "$(command -v python3)")")-venv" \
 && rm -rf /var/lib/apt/lists/* \
 && python3 -m venv /opt/pip \
 && python3 -m venv --without-pip /opt/venv
WORKDIR /opt/project
COPY pyproject.toml requirements.lock ./
COPY images/requirements.py images/
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=ca.pem,target=/etc/ca.pem \
    python3 images/requirements.py serve > packages.txt \
 && /opt/pip/bin/pip --python /opt/venv install --no-cache-dir --constraint requirements.lock --requirement packages.txt


# ---- the server on a GPU, with the bundle of one architecture
# hadolint ignore=DL3006
FROM base-${PLATFORM} AS runtime
ARG PLATFORM
ARG ARCH
# An image for all architectures would contain five bundles and use one.
RUN if [ -z "${ARCH}" ]; then echo 'error: ARCH is empty: name the architecture of the GPU, for example --build-arg ARCH=sm86' >&2; exit 1; fi \
 && useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin voxwright
COPY --from=server /slim/ /
RUN echo /opt/tritonserver/lib > /etc/ld.so.conf.d/tritonserver.conf && ldconfig
COPY --from=serve-environment /opt/venv /opt/venv
COPY contract /opt/voxwright/contract
COPY model_repository /opt/voxwright/model_repository
COPY runtime /opt/voxwright/runtime
COPY dist/engines/${PLATFORM}/${ARCH} /opt/voxwright/engines/${PLATFORM}/${ARCH}
# NVIDIA's container toolkit reads NVIDIA_DRIVER_CAPABILITIES. NVIDIA_VISIBLE_DEVICES is not set: with the device plugin's
# strategy cdi-cri, `all` in the image would give a pod every GPU of the node. Docker and the plugin select the GPU.
ENV PATH=/opt/venv/bin:/opt/tritonserver/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONPATH=/opt/voxwright \
    PYTHONSAFEPATH=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    VOXWRIGHT_PLATFORM=${PLATFORM} \
    VOXWRIGHT_ENGINES=/opt/voxwright/engines \
    VOXWRIGHT_REPOSITORY=/tmp/voxwright/repository
# The vendor's public key as text: the server then requires a licence that this key signed (docs/licence.md).
ARG VENDOR_KEY=""
RUN if [ -n "${VENDOR_KEY}" ]; then \
      mkdir -p /etc/voxwright && printf '%s\n' "${VENDOR_KEY}" > /etc/voxwright/vendor.pem \
      && python3 -m runtime.licence check-key /etc/voxwright/vendor.pem; \
    fi
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="voxwright-runtime" \
      org.opencontainers.image.description="Serves Voxwright's models on a GPU (${ARCH}) with Triton ${PLATFORM}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      voxwright.platform="${PLATFORM}" \
      voxwright.arch="${ARCH}"
WORKDIR /opt/voxwright
USER 10001:10001
EXPOSE 8000 8001 8002
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=10s --start-period=120s --retries=3 CMD ["python3", "-m", "runtime.probe", "--timeout", "5"]
ENTRYPOINT ["python3", "-m", "runtime"]

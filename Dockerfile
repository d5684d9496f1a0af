# An image for NVIDIA GPUs. It has not been built or run by the authors: no machine with Docker was at hand.
#
#   docker build -t crab_lightning .
#   docker run --rm --gpus all --shm-size 16g -v "$PWD:/data" crab_lightning fit --config omni.yaml
#
# PyTorch's package brings its own CUDA libraries. The host needs the NVIDIA driver and the NVIDIA Container Toolkit.
FROM python:3.12-slim

# Triton, which PyTorch uses for compiled kernels, calls a C compiler when it starts.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/crab_lightning
COPY . .
RUN pip install --no-cache-dir '.[serve,endpoint,parquet,quantized]' && rm -rf /opt/crab_lightning

ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN useradd --create-home crab
USER crab
WORKDIR /data
ENTRYPOINT ["crab-lightning"]
CMD ["--help"]

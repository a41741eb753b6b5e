# One image for every process: web, celery, beat and the workers that celery starts.
#   docker build -t atrium .                                              CUDA (torch's default wheel)
#   docker build -t atrium --build-arg TORCH_PIP_ARGS="--index-url …" .    CPU only, much smaller: PyTorch's
#                                                                          index of CPU wheels, as its site names it
FROM python:3.11-slim AS build
ARG TORCH_PIP_ARGS=""
RUN apt-get update && apt-get install -y --no-install-recommends build-essential && rm -rf /var/lib/apt/lists/*
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY requirements.txt .
# torch by its pin alone and first, so that nothing else chooses its build.
RUN pip install $TORCH_PIP_ARGS "$(grep '^torch==' requirements.txt)"
RUN pip install -r requirements.txt

FROM python:3.11-slim
# Workers on CPUs compile a model's forward pass; without a compiler they serve on plain torch.
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 1000 --create-home atrium && install -d -o atrium -g atrium /data /cache /files
COPY --from=build /venv /venv
WORKDIR /app
COPY . .
RUN python -m compileall -q apps project gpu_worker
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 ATRIUM_DATA_DIR=/data HF_HOME=/cache/huggingface
USER atrium
EXPOSE 8000
VOLUME ["/data", "/cache", "/files"]
# By itself the image is the whole portal on one machine; docker-compose.yml runs its parts as services.
CMD ["python", "manage.py", "serve", "--host", "0.0.0.0"]

# The demo, the bundled model included. About 1.9 GB for a CPU; for CUDA: --build-arg TORCH=cu128
FROM python:3.11-slim-bookworm

# The name of PyTorch's package index: cpu, cu128, ...
ARG TORCH=cpu

RUN useradd --uid 1000 --create-home demo && mkdir /data && chown demo:demo /data
WORKDIR /app

# OpenCV without windows: the slim image has no desktop's libraries.
COPY requirements.txt ./
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/$TORCH \
      "$(grep '^torch==' requirements.txt)" && \
    sed 's/^opencv-python==/opencv-python-headless==/' requirements.txt > /tmp/headless.txt && \
    pip install --no-cache-dir -r /tmp/headless.txt && \
    rm /tmp/headless.txt

COPY app.py ./
COPY qwen_vl ./qwen_vl
COPY examples ./examples
RUN python -m compileall -q app.py qwen_vl

# Written to are /data (models, rounded weights, jobs) and /tmp (uploads), and nothing else: run it with --read-only.
ENV HF_HOME=/data/huggingface \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    QWEN_VL_HOST=0.0.0.0 \
    QWEN_VL_JOB_FILE=/data/jobs.sqlite
VOLUME /data
EXPOSE 7860
USER demo

# Not healthy while a model is downloaded and loaded, which may take a while.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30m --start-interval=2s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:7860/health')"]
CMD ["python", "app.py"]

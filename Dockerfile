# batchrun in a container, for a user without privileges. docs/containers.md has more.
#   docker build -t batchrun .
#   docker build -t batchrun --build-arg EXTRAS=eval,excel .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/data" -e OPENAI_API_KEY batchrun run rows.jsonl -o run

FROM python:3.12-slim-bookworm AS build
ARG EXTRAS=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY requirements/run.txt requirements/dev.txt requirements/
RUN python -m venv /opt/batchrun \
 && /opt/batchrun/bin/pip install --require-hashes -r requirements/run.txt
COPY pyproject.toml README.md LICENSE ./
COPY batchrun batchrun
RUN /opt/batchrun/bin/pip install --no-deps --no-build-isolation .
# The versions of extras are those that the tests run on.
RUN if [ -n "$EXTRAS" ]; then \
      sed -e '/^ *--hash/d' -e 's/ *\\$//' requirements/dev.txt > constraints.txt \
      && /opt/batchrun/bin/pip install --no-build-isolation -c constraints.txt ".[$EXTRAS]"; \
    fi

FROM python:3.12-slim-bookworm
COPY --from=build /opt/batchrun /opt/batchrun
RUN useradd --uid 10001 --create-home batchrun \
 && install -d -o batchrun -g batchrun /data
ENV PATH=/opt/batchrun/bin:$PATH
WORKDIR /data
USER 10001:10001
ENTRYPOINT ["batchrun"]
CMD ["--help"]

# One image for every service, the topics command and the simulator.
FROM python:3.12-slim-bookworm AS build
WORKDIR /build
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY app app
COPY agents agents
COPY tables tables
COPY connectors connectors
COPY benchmarks benchmarks
RUN python -m venv /opt/skustream \
    && /opt/skustream/bin/pip install --no-cache-dir -c constraints.txt .

FROM python:3.12-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /var/lib/skustream --create-home skustream
COPY --from=build /opt/skustream /opt/skustream
ENV PATH=/opt/skustream/bin:$PATH PYTHONUNBUFFERED=1 SKUSTREAM_DATA_DIR=/var/lib/skustream/data
WORKDIR /var/lib/skustream
USER skustream
VOLUME /var/lib/skustream
ENTRYPOINT ["skustream"]
CMD ["--help"]

# rekeyd in a container: no root, no shell needed, a root file system that may be read-only.
#
#   docker build -t rekeyd .
#
# compose.yaml runs it with ScyllaDB and stand-ins for SQS and KMS; docs/deploy.md
# says how to run it in earnest. A worker on the embedded store, on a volume that
# keeps store, queue, key ring and audit log:
#
#   docker volume create rekeyd
#   docker run --rm -v rekeyd:/var/lib/rekeyd rekeyd init
#   docker run --read-only --tmpfs /tmp --cap-drop ALL \
#       --security-opt no-new-privileges --ulimit core=0 --ulimit memlock=-1 \
#       --stop-timeout 30 -v rekeyd:/var/lib/rekeyd rekeyd worker
#
# The embedded store, queue and key ring are files that several processes lock:
# all containers on them must run on one machine, on a local file system.
# The stop timeout is longer than a worker's grace time (25 s). Without the
# memlock limit keys can reach swap; the worker says so when it starts.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /build
# The image has a C compiler, which SQLite and the TLS library need, and nothing is
# fetched but crates. Dependencies first: they change less often than the source.
# (Cargo wants the benches that its manifest names to be there.)
COPY Cargo.toml Cargo.lock ./
COPY benches benches
RUN mkdir src \
    && echo 'fn main() {}' >src/main.rs \
    && touch src/lib.rs \
    && cargo build --locked --release \
    && rm -r src
COPY src src
# Cargo goes by times, and the copied files may be older than the stand-ins.
RUN find src -type f -exec touch {} + \
    && cargo build --locked --release \
    && mkdir -m 0700 /build/state

# The same Debian as above, as small as it comes. Of it rekeyd needs glibc only:
# no shell is started in this container.
FROM debian:bookworm-slim
# The authorities that the certificates of SQS, KMS and STS lead to.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /build/target/release/rekeyd /usr/local/bin/rekeyd
# A user without a name. A new volume mounted here takes over owner and mode.
COPY --from=build --chown=65532:65532 /build/state /var/lib/rekeyd
# The metrics are on for the health check, on this container's loopback only;
# give them another address for Prometheus to reach.
ENV REKEYD_DATA_DIR=/var/lib/rekeyd \
    REKEYD_LOG__FORMAT=json \
    REKEYD_METRICS__LISTEN=127.0.0.1:9464
USER 65532:65532
WORKDIR /var/lib/rekeyd
VOLUME /var/lib/rekeyd
# No shell is needed. It asks the worker in this container whether its loops move;
# whether work gets on is for its metrics. Switch it off
# (--no-healthcheck) where the container runs another command for long.
HEALTHCHECK --interval=30s --timeout=15s --start-period=30s \
    CMD ["/usr/local/bin/rekeyd", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/rekeyd"]
CMD ["worker"]

# The image of backfilld. It contains one static binary, the root certificates and the license, but
# no shell, no libc and no user database. `backfilld probe` is the health check. `docker run IMAGE
# VERB` runs the command VERB of backfilld.
#
#   docker build -t backfilld .                                        # also buildah bud, podman build
#   docker build --build-arg BUILDER=registry.example/rust:1.95 .      # another base image that has cargo, and the musl target or rustup
#
# buildah and podman need `--format docker`. Their default format (OCI) drops the health check.

# Pin the base image by digest if builds must be reproducible to the byte. The base image must
# contain the toolchain of rust-toolchain.toml.
ARG BUILDER=docker.io/library/rust:1.95-slim-bookworm

FROM ${BUILDER} AS builder
# The binary uses musl. A static glibc resolves host names with libraries that it loads at run time.
# The final image does not contain these libraries.
RUN set -eu; \
    if ! command -v musl-gcc >/dev/null || [ ! -s /etc/ssl/certs/ca-certificates.crt ]; then \
        apt-get update -q && apt-get install -q -y --no-install-recommends musl-tools ca-certificates; \
    fi
WORKDIR /build
COPY . .
# Adds the target if the base image does not contain it, then builds the binary with the settings of
# scripts/release.sh.
RUN set -eu; \
    arch=$(uname -m); target=$arch-unknown-linux-musl; \
    [ -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ] || rustup target add "$target"; \
    export "CC_${arch}_unknown_linux_musl=musl-gcc" CARGO_INCREMENTAL=0 \
        "CARGO_TARGET_$(echo "$arch" | tr a-z A-Z)_UNKNOWN_LINUX_MUSL_LINKER=rust-lld" \
        RUSTFLAGS="--remap-path-prefix=/build=/backfilld --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"; \
    cargo build --release --locked --bin backfilld --target "$target" --target-dir target; \
    install -D -m 755 "target/$target/release/backfilld" /out/backfilld

FROM scratch
ARG VERSION=0.3.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="backfilld" \
      org.opencontainers.image.description="Backfills columns of live PostgreSQL tables, in small batches that adapt to replica lag, lock waits and load." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
# backfilld reads this file for `sslrootcert=system`, and for signals over https without `ca_file`.
COPY --from=builder /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=builder /build/LICENSE /LICENSE
COPY --from=builder /out/backfilld /usr/local/bin/backfilld
ENV PATH=/usr/local/bin
# A number, because `runAsNonRoot` cannot check whether a user name is root.
USER 65532:65532
# The default port of /metrics, /livez and /readyz. Use `run --listen 0.0.0.0:8432` to make the port
# reachable from outside the container.
EXPOSE 8432
# Checks that the daemon's loops make progress. Does not check the database, because an outage of
# the database would then restart every daemon at the same time.
HEALTHCHECK --interval=10s --timeout=6s --start-period=10s --retries=3 CMD ["/usr/local/bin/backfilld", "probe", "livez"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/backfilld"]
CMD ["run"]

# backfilld in an image of its own: one static binary, the root certificates, and nothing else. No shell, no libc, no user
# database; `backfilld probe` is the health check, and every verb works by `docker run IMAGE VERB`.
#
#   docker build -t backfilld .                                        # also buildah bud, podman build
#   docker build --build-arg BUILDER=registry.example/rust:1.95 .      # another base with cargo and the target, or rustup
#
# The health check is a part of Docker's image format: buildah and podman want `--format docker`, or drop it.

# Pin it by digest where images must be the same to the byte. It needs the toolchain of rust-toolchain.toml.
ARG BUILDER=docker.io/library/rust:1.95-slim-bookworm

FROM ${BUILDER} AS builder
# musl, for a static glibc looks names up with libraries that it loads from the host, and there is none here.
RUN set -eu; \
    if ! command -v musl-gcc >/dev/null || [ ! -s /etc/ssl/certs/ca-certificates.crt ]; then \
        apt-get update -q && apt-get install -q -y --no-install-recommends musl-tools ca-certificates; \
    fi
WORKDIR /build
COPY . .
# The target, if this base does not have it yet; then the binary, with the settings of scripts/release.sh.
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
      org.opencontainers.image.description="Fills columns of live PostgreSQL tables without anyone noticing" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
# `sslmode=verify-full` with sslrootcert=system, and signals over https, look here.
COPY --from=builder /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=builder /build/LICENSE /LICENSE
COPY --from=builder /out/backfilld /usr/local/bin/backfilld
ENV PATH=/usr/local/bin
# A number, for `runAsNonRoot` can't tell whether a name is root.
USER 65532:65532
# Where a daemon listens by default; /metrics, /livez and /readyz. `run --listen 0.0.0.0:8432` for others to reach it.
EXPOSE 8432
# The loops turn; never the database, or an outage of it would restart every daemon at once.
HEALTHCHECK --interval=10s --timeout=6s --start-period=10s --retries=3 CMD ["/usr/local/bin/backfilld", "probe", "livez"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/backfilld"]
CMD ["run"]

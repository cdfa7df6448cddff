# syntax=docker/dockerfile:1
#
#   docker buildx build --platform linux/amd64,linux/arm64 -t registry.example/pierhead:0.1.0 --push .
#
# The compiler runs on the machine that builds, whatever the image is for: it crosses, nothing is emulated.

FROM --platform=$BUILDPLATFORM rust:1.95-bookworm AS chef
# cargo-auditable writes the list of crates into the binary, where the scanner of the SBOM finds it.
RUN cargo install --locked cargo-chef@0.1.78 cargo-auditable@0.7.7
# aws-lc-sys and mimalloc are C: each architecture has a compiler, a C library and a linker.
RUN apt-get update && apt-get install -y --no-install-recommends \
      gcc-aarch64-linux-gnu g++-aarch64-linux-gnu libc6-dev-arm64-cross \
      gcc-x86-64-linux-gnu g++-x86-64-linux-gnu libc6-dev-amd64-cross \
    && rm -rf /var/lib/apt/lists/*
ENV CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
    CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER=x86_64-linux-gnu-gcc \
    CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc \
    CC_x86_64_unknown_linux_gnu=x86_64-linux-gnu-gcc
WORKDIR /src
ARG TARGETARCH
RUN case "$TARGETARCH" in \
      amd64) echo x86_64-unknown-linux-gnu ;; \
      arm64) echo aarch64-unknown-linux-gnu ;; \
      *) echo "no build for $TARGETARCH" >&2; exit 1 ;; \
    esac >/target
COPY rust-toolchain.toml ./
RUN rustup target add "$(cat /target)"

# What is depended on, and nothing else: the layer of the next stage stays while this file does.
FROM chef AS recipe
COPY . .
RUN cargo chef prepare --recipe-path recipe.json

FROM chef AS build
COPY --from=recipe /src/recipe.json recipe.json
RUN cargo chef cook --release --locked --target "$(cat /target)" --bin pierhead --recipe-path recipe.json
COPY . .
RUN cargo auditable build --release --locked --target "$(cat /target)" --bin pierhead \
    && install -D "target/$(cat /target)/release/pierhead" /out/pierhead

# What the end-to-end tests route to.
FROM build AS build-demo-backend
RUN cargo build --profile bench --locked --target "$(cat /target)" --example demo_backend \
    && install -D "target/$(cat /target)/release/examples/demo_backend" /out/demo_backend

FROM gcr.io/distroless/cc-debian12:nonroot AS demo-backend
COPY --from=build-demo-backend /out/demo_backend /usr/local/bin/demo_backend
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/demo_backend"]

# glibc and CA certificates, no shell, no package manager.
FROM gcr.io/distroless/cc-debian12:nonroot AS pierhead
LABEL org.opencontainers.image.title="Pierhead" \
      org.opencontainers.image.description="A Kubernetes ingress controller: Ingress YAML in, balanced traffic out" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /out/pierhead /usr/local/bin/pierhead
USER 65532:65532
EXPOSE 8080 8443 9090 10254
ENTRYPOINT ["/usr/local/bin/pierhead"]
CMD ["serve"]

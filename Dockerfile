# Lamina's container image, for people with Docker: docker build -t registry.example/lamina:0.1.0 .
# The project's own tests build the same tree without Docker (`make image`); this file is not run by them.
FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends clang mold cmake ca-certificates
WORKDIR /src
COPY . .
RUN scripts/static-cargo.sh build --locked --profile dist -p lamina-cli -p lamina-operator -p lamina-csi \
    && mkdir -p /root-fs/usr/local/bin /root-fs/etc/ssl/certs /root-fs/tmp \
    && chmod 1777 /root-fs/tmp \
    && cp "$(scripts/static-cargo.sh --target-dir)"/dist/lamina /root-fs/usr/local/bin/ \
    && cp "$(scripts/static-cargo.sh --target-dir)"/dist/lamina-operator /root-fs/usr/local/bin/ \
    && cp "$(scripts/static-cargo.sh --target-dir)"/dist/lamina-csi /root-fs/usr/local/bin/ \
    && cp /etc/ssl/certs/ca-certificates.crt /root-fs/etc/ssl/certs/ \
    && printf 'root:x:0:0:root:/:/sbin/nologin\nlamina:x:65532:65532:lamina:/:/sbin/nologin\n' > /root-fs/etc/passwd \
    && printf 'root:x:0:\nlamina:x:65532:\n' > /root-fs/etc/group \
    && printf 'hosts: files dns\n' > /root-fs/etc/nsswitch.conf

FROM scratch
LABEL org.opencontainers.image.title=lamina org.opencontainers.image.licenses=Apache-2.0
COPY --from=build /root-fs/ /
ENV PATH=/usr/local/bin

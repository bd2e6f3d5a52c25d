#!/usr/bin/env bash
# Builds the static binaries of a release for each architecture, with checksums, in target/dist.
#
#   scripts/release.sh             builds for x86_64 and aarch64
#   scripts/release.sh aarch64     builds for one architecture
#   VERIFY=1 scripts/release.sh    builds twice, from two directories, and compares the binaries
#
# The binaries use musl, because a static glibc needs libraries of the host to resolve names. These
# libraries may have another version or be absent. The same commit, toolchain and C compiler produce
# the same bytes: build paths are replaced by fixed paths, timestamps are the time of the commit,
# and Cargo.lock pins all dependencies. The script needs the Rust target and a C compiler (for ring)
# of each architecture. If one is missing, the script prints how to install it, and builds nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

archs=("$@")
[ ${#archs[@]} -gt 0 ] || archs=(x86_64 aarch64)
cargo=${CARGO:-cargo}
target_dir=${CARGO_TARGET_DIR:-$PWD/target}
dist=$target_dir/dist
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
[ -n "$version" ] || { echo "no version in Cargo.toml" >&2; exit 1; }
# A source archive has no Git history, so a user who builds from one must set SOURCE_DATE_EPOCH.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
commit=$(git rev-parse HEAD 2>/dev/null || echo unknown)
if [ -n "$(git status --porcelain --untracked-files=no 2>/dev/null)" ]; then
    echo "note: the checkout has uncommitted changes, so the binaries are not those of commit $commit" >&2
    commit=$commit-dirty
fi

# Prints the C compiler for an architecture. Only ring needs a C compiler, and ring does not use the
# compiler's libc.
compiler() {
    local candidates name
    case $1 in
        "$(uname -m)") candidates="musl-gcc $1-linux-musl-gcc" ;;
        *) candidates="$1-linux-musl-gcc $1-linux-gnu-gcc" ;;
    esac
    for name in $candidates; do
        command -v "$name" && return 0
    done
    return 1
}

missing=()
for arch in "${archs[@]}"; do
    case $arch in
        x86_64 | aarch64) ;;
        *) echo "unknown architecture: $arch (known: x86_64, aarch64)" >&2; exit 2 ;;
    esac
    target=$arch-unknown-linux-musl
    [ -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ] ||
        missing+=("Rust's library for $target: rustup target add $target")
    compiler "$arch" >/dev/null || case $arch in
        "$(uname -m)") missing+=("a C compiler for $target: apt-get install musl-tools") ;;
        *) missing+=("a C compiler for $target: apt-get install gcc-${arch/_/-}-linux-gnu") ;;
    esac
done
if [ ${#missing[@]} -gt 0 ]; then
    printf 'Missing on this machine:\n' >&2
    printf '  %s\n' "${missing[@]}" >&2
    exit 1
fi

build() { # ARCH SOURCE OUTPUT: builds in OUTPUT and prints the path of the binary
    local arch=$1 source=$2 output=$3 target=$1-unknown-linux-musl cc name
    cc=$(compiler "$arch")
    name=${target//-/_}
    (
        cd "$source"
        # rust-lld can link for all architectures, and it does not link any library of this machine.
        env "CC_$name=$cc" "CARGO_TARGET_${name^^}_LINKER=rust-lld" CARGO_INCREMENTAL=0 CARGO_TERM_COLOR=never \
            "CARGO_ENCODED_RUSTFLAGS=--remap-path-prefix=$source=/backfilld"$'\x1f'"--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo" \
            "$cargo" build --release --locked --bin backfilld --target "$target" --target-dir "$output" >&2
    )
    echo "$output/$target/release/backfilld"
}

# Succeeds if the binary is static, that is, needs no library of the host.
is_static() {
    ! LC_ALL=C readelf --program-headers --dynamic --wide "$1" | grep -qE 'INTERP|NEEDED'
}

rm -rf "$dist"
mkdir -p "$dist"
for arch in "${archs[@]}"; do
    binary=$(build "$arch" "$PWD" "$target_dir/release-builds")
    is_static "$binary" || { echo "$binary is not static" >&2; exit 1; }
    if [ -n "${VERIFY:-}" ]; then
        again=$(mktemp -d)
        trap 'rm -rf "$again"' EXIT
        git archive HEAD | tar -x -C "$again"
        second=$(build "$arch" "$again" "$again/target")
        cmp "$binary" "$second" || { echo "$arch: two builds of the same source differ" >&2; exit 1; }
        echo "$arch: two builds produced the same bytes"
        rm -rf "$again"
    fi
    name=backfilld-$version-$arch-linux
    mkdir -p "$dist/$name"
    install -m 755 "$binary" "$dist/$name/backfilld"
    install -m 644 LICENSE README.md CHANGELOG.md SECURITY.md config/backfilld.yaml "$dist/$name/"
    # The README and the documentation refer to these files by these paths.
    git archive HEAD docs ARCHITECTURE.md benches/README.md deploy/systemd deploy/prometheus deploy/grafana deploy/runbooks | tar -x -C "$dist/$name"
    echo "$commit" > "$dist/$name/COMMIT"
    tar --directory "$dist" --sort=name --owner=0 --group=0 --numeric-owner --mode=u+w,go=rX \
        --mtime="@$SOURCE_DATE_EPOCH" --create "$name" | gzip -9 -n > "$dist/$name.tar.gz"
    rm -rf "${dist:?}/$name"
done
(cd "$dist" && sha256sum -- *.tar.gz > SHA256SUMS)
echo "in $dist:"
(cd "$dist" && ls -l -- * | awk '{ print "  " $5 "\t" $NF }')

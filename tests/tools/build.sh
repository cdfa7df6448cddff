#!/usr/bin/env bash
# Makes target/tools/ hold the programs that checks of charts, alerts, workflows and the handbook need.
#
# usage: build.sh [NAME...]     all of them without a name
#
# Each is built once, from the version named here, into a cache that outlives checkouts.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
target=${CARGO_TARGET_DIR:-$here/../../target}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/pierhead/tools
mkdir -p "$target/tools" "$cache"
exec 9>"$cache/.lock"
flock 9

# install NAME VERSION COMMAND...: COMMAND leaves NAME in $bin.
install() {
  local name=$1 version=$2 bin=$cache/.building kept=$cache/$1-$2
  shift 2
  if [ ! -x "$kept" ]; then
    echo "tools: building $name $version (once; cached in $cache)"
    rm -rf "$bin" && mkdir -p "$bin"
    bin=$bin "$@" >"$cache/$name.log" 2>&1 || { tail -20 "$cache/$name.log" >&2; return 1; }
    mv "$bin/$name" "$kept"
    rm -rf "$bin"
  fi
  ln -sfn "$kept" "$target/tools/$name"
}

from_go() { CGO_ENABLED=0 GOFLAGS='' GOBIN=$bin go install -trimpath -ldflags '-s -w' "$1"; }
from_cargo() {
  env -u CARGO_TARGET_DIR cargo install --locked --root "$bin" "$@"
  mv "$bin"/bin/* "$bin"
}

build() {
  case $1 in
    helm) install helm v3.22.0 from_go helm.sh/helm/v3/cmd/helm@v3.22.0 ;;
    actionlint) install actionlint v1.7.12 from_go github.com/rhysd/actionlint/cmd/actionlint@v1.7.12 ;;
    promtool) install promtool v0.316.0 from_go github.com/prometheus/prometheus/cmd/promtool@v0.316.0 ;;
    mdbook) install mdbook 0.5.4 from_cargo mdbook --version 0.5.4 ;;
    lychee) install lychee 0.24.2 from_cargo lychee --version 0.24.2 ;;
    *) echo "tools: $1 is not known" >&2; return 1 ;;
  esac
}

[ $# -gt 0 ] || set -- helm actionlint promtool mdbook lychee
for name in "$@"; do build "$name"; done

#!/usr/bin/env bash
# Makes target/controlplane/ hold etcd, kube-apiserver, kube-controller-manager and kubectl of go.mod's versions.
#
# usage: build.sh [node]     node: kube-scheduler, kubelet and kube-proxy too, which a cluster with pods needs
#
# KUBEBUILDER_ASSETS (a folder with such binaries, as `setup-envtest use -p path` prints) wins; else they are built
# once from this Go module into a cache that outlives checkouts. Cold that takes about half an hour on two cores.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
target=${CARGO_TARGET_DIR:-$here/../../target}
programs=(etcd kube-apiserver kube-controller-manager kubectl)
case ${1:-} in
  '') ;;
  node) programs+=(kube-scheduler kubelet kube-proxy) ;;
  *) echo "usage: $0 [node]" >&2; exit 2 ;;
esac
mkdir -p "$target"

has_all() { local p; for p in "${programs[@]}"; do [ -x "$1/$p" ] || return 1; done; }
link() { ln -sfn "$1" "$target/controlplane"; echo "control plane: $1"; }

# setup-envtest ships nothing of what a node needs: for a node all is built.
if [ -n "${KUBEBUILDER_ASSETS:-}" ] && [ $# = 0 ]; then
  # setup-envtest ships no kube-controller-manager; the tests need only the other three.
  for p in etcd kube-apiserver kubectl; do
    [ -x "$KUBEBUILDER_ASSETS/$p" ] || { echo "KUBEBUILDER_ASSETS=$KUBEBUILDER_ASSETS has no $p" >&2; exit 1; }
  done
  link "$KUBEBUILDER_ASSETS"
  exit 0
fi

kubernetes=$(awk '$1 == "k8s.io/kubernetes" { print $2 }' "$here/go.mod")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/pierhead/controlplane/$kubernetes
if ! has_all "$cache"; then
  mkdir -p "$cache"
  exec 9>"$cache/.lock"
  flock 9
  version=k8s.io/component-base/version
  minor=${kubernetes#v1.}; minor=${minor%%.*}
  flags="-s -w -X $version.gitVersion=$kubernetes -X $version.gitMajor=1 -X $version.gitMinor=$minor"
  for p in "${programs[@]}"; do
    [ -x "$cache/$p" ] && continue
    case $p in etcd) package=go.etcd.io/etcd/server/v3 ;; *) package=k8s.io/kubernetes/cmd/$p ;; esac
    echo "control plane: building $p (once; cached in $cache)"
    (cd "$here" && CGO_ENABLED=0 go build -trimpath -ldflags "$flags" -o "$cache/.$p" "$package")
    mv "$cache/.$p" "$cache/$p"
  done
fi
link "$cache"

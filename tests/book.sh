#!/usr/bin/env bash
# Builds the handbook into target/book, warnings counting as failures, and checks its links.
#
# Relative links and anchors are checked, in the sources and in the built pages. Links to other sites are not: CI must
# not fail with them.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
tests/tools/build.sh mdbook lychee
log=$(mktemp)
trap 'rm -f "$log"' EXIT

rm -rf "$target/book"
"$target/tools/mdbook" build --dest-dir "$(realpath -m "$target/book")" 2>&1 | tee "$log"
if grep -Eq 'WARN|ERROR' "$log"; then
  echo 'error: mdbook warns, see above' >&2
  exit 1
fi
for page in docs/*.md docs/adr/*.md; do
  name=${page#docs/}
  case $name in
    # For those who change the code, not for those who use the program.
    SUMMARY.md | PLAN.md | *-tests.md) ;;
    *) grep -q "($name)" docs/SUMMARY.md || { echo "error: $page is not in docs/SUMMARY.md" >&2; exit 1; } ;;
  esac
done
check() { "$target/tools/lychee" --offline --include-fragments --no-progress --cache=false "$@"; }
check ./*.md 'docs/**/*.md' 'charts/**/*.md' 'examples/**/*.md'
check --root-dir "$(realpath "$target/book")" "$target/book/**/*.html"

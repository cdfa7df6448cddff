# The two commands of the README, and what they are made of.

.PHONY: run test node kind bench book fmt

# Serves examples/quickstart with three demo backends until Ctrl-C.
run:
	@examples/quickstart/run

# Everything that must hold before a merge.
test:
	@.ci/test

# End to end on a node of this machine: kubelet and containerd, no Docker. Needs root; docs/e2e.md.
node:
	@tests/e2e/node/run

# The same on a kind cluster. Needs Docker, kind, kubectl and helm.
kind:
	@tests/e2e/kind

# Compares with nginx on this machine and rewrites docs/performance.md.
bench:
	@bench/run

# The handbook, in target/book, with its links checked.
book:
	@tests/book.sh

fmt:
	cargo fmt --all

# The two commands of the README, and what they are made of.

.PHONY: run test bench book fmt

# Serves examples/quickstart with three demo backends until Ctrl-C.
run:
	@examples/quickstart/run

# Everything that must hold before a merge.
test:
	@.ci/test

# Compares with nginx on this machine and rewrites docs/performance.md.
bench:
	@bench/run

# The handbook, in target/book, with its links checked.
book:
	@tests/book.sh

fmt:
	cargo fmt --all

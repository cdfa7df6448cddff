//! `pierhead`: see [`pierhead::cli`].

use std::process::ExitCode;

/// Connections allocate and free on their own threads: mimalloc keeps those heaps apart.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    pierhead::cli::main()
}

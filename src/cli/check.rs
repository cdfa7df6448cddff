//! Stub.
use std::process::ExitCode;
/// Stub.
#[derive(Debug, clap::Args)]
pub struct Args {}
/// Stub.
pub fn run(_args: Args) -> anyhow::Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}

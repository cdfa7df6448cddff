//! Programs that `tests/tools/build.sh` makes.

use std::{
    env,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
};

/// Runs a tool with this input in a folder and gives what it said.
pub(crate) fn run(name: &str, arguments: &[&str], folder: &Path, input: &[u8]) -> Output {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| checkout.join("target"), PathBuf::from);
    let tool = target.join("tools").join(name);
    assert!(tool.exists(), "{} is missing: run tests/tools/build.sh {name}", tool.display());
    let mut command = Command::new(tool);
    command.args(arguments).current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
    // Beside the reading: both sides may have more to say than a pipe holds.
    let writer = thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    output
}

//! Programs that `tests/tools/build.sh` makes.

#![allow(dead_code, reason = "each test uses a part")]

use std::{
    env,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
};

/// The folder that the scripts build into, as cargo does.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| checkout().join("target"), PathBuf::from)
}

fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn tool(name: &str) -> Command {
    let program = target().join("tools").join(name);
    assert!(program.is_file(), "{} is missing: run tests/tools/build.sh {name}", program.display());
    Command::new(program)
}

/// A call of helm without settings of the user. Its idea of Kubernetes, where it asks none, is a recent one.
pub(crate) fn helm() -> Command {
    let mut command = tool("helm");
    command.current_dir(checkout());
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("HELM_") || name.starts_with("KUBE") {
            command.env_remove(&*name);
        }
    }
    command
}

/// Runs a tool with this input in a folder and gives what it said.
pub(crate) fn run(name: &str, arguments: &[&str], folder: &Path, input: &[u8]) -> Output {
    let mut command = tool(name);
    command.args(arguments).current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the tool starts");
    let (mut stdin, input) = (child.stdin.take().expect("it is piped"), input.to_vec());
    // Beside the reading: both sides may have more to say than a pipe holds.
    let writer = thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("the tool ends");
    writer.join().expect("no panic").expect("the tool reads its input");
    output
}

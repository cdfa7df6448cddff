//! The helm that tests/tools/build.sh builds.

use std::{env, path::PathBuf, process::Command};

/// A call of helm without settings of the user. Its idea of Kubernetes, where it asks none, is a recent one.
pub(crate) fn helm() -> Command {
    let checkout = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| checkout.join("target"), PathBuf::from);
    let program = target.join("tools/helm");
    assert!(program.is_file(), "no {}: run tests/tools/build.sh helm", program.display());
    let mut command = Command::new(program);
    command.current_dir(checkout);
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("HELM_") || name.starts_with("KUBE") {
            command.env_remove(&*name);
        }
    }
    command
}

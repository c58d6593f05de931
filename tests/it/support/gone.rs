//! Folders that go with the test process, whatever ends it: what a `static` holds is never dropped, and a killed process
//! drops nothing.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Removes a folder once this process is gone.
#[expect(clippy::zombie_processes, reason = "it ends after this process")]
pub fn with_this_process(folder: &Path) {
    // The kernel closes the pipe's other end with the process. A group of its own: Ctrl-C is not for it.
    let script = "cat >/dev/null; rm -rf -- \"$1\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(folder).process_group(0).current_dir("/");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::mem::forget(child.stdin.take());
}

//! How large a test is: small in `make test`, full in `make prove`, by the same code.
//!
//! A proof is an ordinary test that takes its sizes from here and prints its figures with [`figure`]. It asserts what it
//! claims at either size; only the figures of the full size are worth quoting.

use std::path::PathBuf;

/// A word inside everything secret that a test plants (values, keys, passwords), so that one search finds any leak.
pub const PLANTED: &str = "planted-";

/// Whether proofs run at full size (`DRIFTLESS_PROVE=1`).
pub fn full() -> bool {
    std::env::var_os("DRIFTLESS_PROVE").is_some_and(|value| value == "1")
}

/// The size for this run.
pub fn pick<T>(small: T, large: T) -> T {
    if full() { large } else { small }
}

/// Prints a figure of a proof, as the one line that `make prove` passes on: `PROVE 3.4 pgbench …`.
pub fn figure(number: &str, name: &str, text: impl std::fmt::Display) {
    // Proofs run with --nocapture; the line starts afresh even where the test harness has just printed a name.
    println!("\nPROVE {number} {name} {text}");
}

/// A folder where logs of servers and of driftless outlive the test run, if one was asked for (`DRIFTLESS_KEEP_LOGS`).
/// `scripts/secrets.sh` searches it for what was planted.
pub fn kept_logs() -> Option<PathBuf> {
    std::env::var_os("DRIFTLESS_KEEP_LOGS").map(PathBuf::from)
}

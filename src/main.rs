//! The `driftless` program: parse, run, exit code; nothing else.

use std::process::ExitCode;

/// Batches come and go between threads all the time, which the system's allocator answers with a growing heap.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    driftless::cli::main().into()
}

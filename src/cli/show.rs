//! `demo`: each step as a line, and a last line that says how it ended.

use std::time::Instant;

use crate::cli::args::Demo;
use crate::cli::exit::Exit;
use crate::cli::print::Printer;
use crate::error::Result;
use crate::ops::demo::demo;

/// Runs the demo.
pub(super) async fn run(options: &Demo, printer: Printer) -> Result<Exit> {
    let begun = Instant::now();
    let mut failed = Ok(());
    let mut say = |step: &str| {
        let said = printer.step(&format!("{:5.1} s  {step}", begun.elapsed().as_secs_f64()));
        if failed.is_ok() {
            failed = said;
        }
    };
    let shown = demo(options.keep.as_deref(), &mut say).await?;
    failed?;
    printer.demonstrated(&shown)?;
    Ok(if shown.verified.equal { Exit::Done } else { Exit::Different })
}

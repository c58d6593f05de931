//! Results, on stdout: tables for people, one JSON object per line for programs. The only file that writes there.
//!
//! A reader that went away (`driftless status | head -1`) is no error: what is left to say is dropped, quietly.

use std::io::{ErrorKind, Write};

use serde::Serialize;
use serde_json::json;

use crate::error::{Error, Result};
use crate::ops::outcome::{Copied, Dropped, Finding, Policy, Severity, Verified};
use crate::ops::view::{View, Views};

/// Writes results.
#[derive(Clone, Copy, Debug)]
pub struct Printer {
    json: bool,
}

impl Printer {
    /// A printer for people, or for programs.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether results are for programs.
    pub fn is_json(self) -> bool {
        self.json
    }

    /// What every pipeline is doing. `again`: the screen's last table is overwritten.
    pub fn status(self, views: &Views, again: bool) -> Result<()> {
        if self.json {
            return line(views);
        }
        let clear = if again && std::io::IsTerminal::is_terminal(&std::io::stdout()) { "\x1b[H\x1b[2J" } else { "" };
        text(&format!("{clear}{}", table(&views.pipelines)))
    }

    /// A copy is complete.
    pub fn copied(self, copied: &Copied) -> Result<()> {
        if self.json {
            return event("done", copied);
        }
        let Copied { name, items, bytes, seconds, skipped_expired, skipped_excluded } = copied;
        let mut left_out = Vec::new();
        for (count, why) in [(*skipped_expired, "expired"), (*skipped_excluded, "excluded")] {
            if count > 0 {
                left_out.push(format!("{} {why}", number(count)));
            }
        }
        let left_out = if left_out.is_empty() { String::new() } else { format!("; left out: {}", left_out.join(", ")) };
        let (items, bytes) = (number(*items), size(*bytes));
        text(&format!("{name}: copied {items} items, {bytes}, in {seconds:.1} s{left_out}\n"))
    }

    /// What a comparison found.
    pub fn verified(self, verified: &Verified) -> Result<()> {
        if self.json {
            return line(verified);
        }
        text(&verified_text(verified))
    }

    /// A key that differs. Only its place is shown; see `ops::verify`.
    pub fn difference(self, what: &str, key: &str) -> Result<()> {
        if self.json {
            event("difference", &json!({ "what": what, "key": key }))
        } else {
            text(&format!("  {what}: {key}\n"))
        }
    }

    /// Everything that `check` found.
    pub fn findings(self, findings: &[Finding]) -> Result<()> {
        let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
        let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
        if self.json {
            findings.iter().try_for_each(|finding| event("finding", finding))?;
            return event("checked", &json!({ "errors": errors, "warnings": warnings }));
        }
        findings.iter().try_for_each(|finding| text(&finding_text(finding)))?;
        match (errors, warnings) {
            (0, 0) => text("nothing wrong was found\n"),
            _ => text(&format!("{errors} errors, {warnings} warnings\n")),
        }
    }

    /// A step of the demo.
    #[cfg(feature = "sqlite")]
    pub fn step(self, step: &str) -> Result<()> {
        if self.json { event("step", &json!({ "what": step.trim_start() })) } else { text(&format!("{step}\n")) }
    }

    /// The demo's last line.
    #[cfg(feature = "sqlite")]
    pub fn demonstrated(self, shown: &crate::ops::demo::Shown) -> Result<()> {
        let crate::ops::demo::Shown { writes, missed, verified } = shown;
        if self.json {
            return event("done", &json!({ "writes": writes, "missed": missed, "verify": verified }));
        }
        let verdict = if verified.equal { "the copy is equal" } else { "the copy DIFFERS" };
        text(&format!(
            "demo: {verdict}: {} items compared after {} writes, {} of them while the replica was dead\n",
            number(verified.compared),
            number(*writes),
            number(*missed)
        ))
    }

    /// What a command that goes back in time did, or would do.
    #[cfg(feature = "journal")]
    pub fn past(self, name: &str, value: &impl Serialize, people: &str) -> Result<()> {
        if self.json { event(name, value) } else { text(people) }
    }

    /// A value for programs, or else a text for people.
    #[cfg(feature = "journal")]
    pub fn either(self, value: &impl Serialize, people: &str) -> Result<()> {
        if self.json { line(value) } else { text(people) }
    }

    /// Lines that are finished, in either form.
    #[cfg(feature = "journal")]
    pub fn lines(self, lines: &str) -> Result<()> {
        text(lines)
    }

    /// Something listens here.
    #[cfg(feature = "dynamodb")]
    pub fn listening(self, address: std::net::SocketAddr) -> Result<()> {
        if self.json {
            return line(&json!({ "event": "listening", "address": address }));
        }
        text(&format!("listening on http://{address}\n"))
    }

    /// What a policy must allow.
    pub fn policy(self, policy: &Policy) -> Result<()> {
        if self.json {
            return event("policy", policy);
        }
        let document = serde_json::to_string_pretty(&policy.policy).unwrap_or_default();
        text(&format!("{} {}:\n{document}\n", policy.name, policy.side))
    }

    /// A slot is gone.
    pub fn dropped(self, dropped: &Dropped) -> Result<()> {
        if self.json { event("dropped", dropped) } else { text(&format!("{}: {}\n", dropped.name, dropped.what)) }
    }
}

fn verified_text(verified: &Verified) -> String {
    let Verified { name, equal, live, compared, missing, extra, different, unsettled, repaired, seconds, .. } =
        verified;
    let mut said = vec![format!("{} compared", number(*compared))];
    for (count, what) in [
        (missing, "missing"),
        (extra, "extra"),
        (different, "different"),
        (unsettled, "unsettled"),
        (repaired, "repaired"),
    ] {
        if *count > 0 {
            said.push(format!("{} {what}", number(*count)));
        }
    }
    let verdict = if *equal { "equal" } else { "DIFFERENT" };
    let judged = if *live { "" } else { ", as they are: nobody moves the replica" };
    format!("{name}: {verdict}: {} in {seconds:.1} s{judged}\n", said.join(", "))
}

fn finding_text(finding: &Finding) -> String {
    let Finding { name, side, severity, what, mend } = finding;
    let severity = match severity {
        Severity::Note => "note",
        Severity::Warning => "warning",
        Severity::Error => "ERROR",
    };
    let place = if side.is_empty() { name.clone() } else { format!("{name} {side}") };
    let mend = if mend.is_empty() { String::new() } else { format!("    {}\n", mend.replace('\n', "\n    ")) };
    format!("{severity}: {place}: {what}\n{mend}")
}

/// The table of `status`.
fn table(views: &[View]) -> String {
    let head = ["PIPELINE", "STATE", "CONSISTENT", "LAG", "CHANGES BEHIND", "EPOCH", "FRONTIER"].map(str::to_owned);
    let rows = views.iter().map(|view| {
        [
            view.name.clone(),
            view.state.clone(),
            if view.consistent { "yes" } else { "no" }.to_owned(),
            view.lag_seconds.map_or_else(|| "unknown".into(), |lag| format!("{lag:.1} s")),
            view.lag_changes.map_or_else(|| "unknown".into(), number),
            view.epoch.to_string(),
            if view.frontier.is_empty() { "none yet".to_owned() } else { view.frontier.clone() },
        ]
    });
    let rows: Vec<[String; 7]> = std::iter::once(head).chain(rows).collect();
    let mut out = columns(&rows);
    for view in views.iter().filter(|view| !view.reason.is_empty()) {
        out.push_str(&format!("{}: {}\n", view.name, view.reason));
    }
    out
}

/// Rows as lines whose columns stand below each other.
pub(super) fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut out = String::new();
    for row in rows {
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            if column + 1 == row.len() {
                out.push_str(cell);
            } else {
                out.push_str(&format!("{cell:width$}  "));
            }
        }
        out.push('\n');
    }
    out
}

/// A whole number with a space between thousands.
pub(super) fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// Bytes in the unit that suits them.
pub(super) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// A line with its name first.
#[derive(Serialize)]
struct Event<'a, T> {
    event: &'a str,
    #[serde(flatten)]
    fields: &'a T,
}

fn event(event: &str, fields: &impl Serialize) -> Result<()> {
    line(&Event { event, fields })
}

fn line(value: &impl Serialize) -> Result<()> {
    let json = serde_json::to_string(value).expect("results are plain data with text keys");
    text(&(json + "\n"))
}

fn text(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        // Nobody listens any more: the rest need not be said, and an interrupted pipe is not a failure of the work.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Error::stopped()),
        Err(error) => Err(Error::transient(format!("write the result to stdout: {}", error.kind()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_sizes_are_easy_to_read() {
        for (value, text) in [(0, "0"), (999, "999"), (1_000, "1 000"), (1_234_567, "1 234 567")] {
            assert_eq!(number(value), text);
        }
        for (value, text) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 30, "5.0 GiB"), (3 << 40, "3.0 TiB")]
        {
            assert_eq!(size(value), text);
        }
    }

    #[test]
    fn the_fields_of_the_json_lines_do_not_change() {
        let verified = serde_json::to_value(Verified::default()).unwrap();
        for field in
            ["equal", "live", "compared", "missing", "extra", "different", "unsettled", "repaired", "head", "seconds"]
        {
            assert!(verified.get(field).is_some(), "{field}");
        }
        let copied = serde_json::to_value(Copied::default()).unwrap();
        for field in ["items", "bytes", "seconds", "skipped_expired", "skipped_excluded"] {
            assert!(copied.get(field).is_some(), "{field}");
        }
        let view = serde_json::to_value(View::from(&crate::engine::status::Status::default())).unwrap();
        for field in ["name", "state", "consistent", "lag_seconds", "lag_changes", "frontier", "head", "epoch"] {
            assert!(view.get(field).is_some(), "{field}");
        }
    }

    #[test]
    fn a_comparison_reads_as_a_sentence() {
        let verified = Verified {
            name: "a".into(),
            equal: true,
            live: true,
            compared: 1_200,
            seconds: 0.24,
            ..Verified::default()
        };
        assert_eq!(verified_text(&verified), "a: equal: 1 200 compared in 0.2 s\n");
        let verified = Verified { equal: false, live: false, missing: 3, ..verified };
        assert_eq!(
            verified_text(&verified),
            "a: DIFFERENT: 1 200 compared, 3 missing in 0.2 s, as they are: nobody moves the replica\n"
        );
    }
}

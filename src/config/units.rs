//! Sizes and durations as people write them.
//!
//! Whole numbers with a unit; nothing is rounded and nothing is guessed: `10K`, which half of the world reads as 1 000
//! and the other half as 1 024, is refused.

use std::time::Duration;

/// What a size looks like, for errors.
pub(super) const SIZE: &str = "a size such as 256MiB, 50GiB or a number of bytes";
/// What a duration looks like, for errors.
pub(super) const DURATION: &str = "a duration such as 500ms, 5s, 10m or 24h";

/// Bytes: a plain number, or one with `B`, `KB`, `MB`, `GB`, `TB` (powers of 1 000), `KiB`, `MiB`, `GiB`, `TiB` or
/// `Ki`, `Mi`, `Gi`, `Ti` (powers of 1 024).
pub(super) fn size(text: &str) -> Option<u64> {
    let (number, unit) = split(text.trim())?;
    let factor: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "ki" | "kib" => 1 << 10,
        "mi" | "mib" => 1 << 20,
        "gi" | "gib" => 1 << 30,
        "ti" | "tib" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// A sum of whole numbers, each with `ms`, `s`, `m`, `h` or `d`, as Go writes durations: `5s`, `1h30m`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (number, tail) = split(rest)?;
        let unit_len = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, next) = tail.split_at(unit_len);
        let millis: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        total = total.checked_add(Duration::from_millis(number.checked_mul(millis)?))?;
        rest = next;
    }
    Some(total)
}

fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_exact_and_never_guessed() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("4096", Some(4096)),
            ("256MiB", Some(256 << 20)),
            ("50GiB", Some(50 << 30)),
            ("50 GiB", Some(50 << 30)),
            ("1gb", Some(1_000_000_000)),
            ("2Ki", Some(2048)),
            ("10K", None),
            ("1.5GiB", None),
            ("-1", None),
            ("GiB", None),
            ("", None),
            ("99999999TiB", None),
        ] {
            assert_eq!(size(text), bytes, "{text}");
        }
    }

    #[test]
    fn durations_are_sums_of_whole_units() {
        for (text, millis) in [
            ("5s", Some(5_000)),
            ("24h", Some(86_400_000)),
            ("1h30m", Some(5_400_000)),
            ("250ms", Some(250)),
            ("7d", Some(604_800_000)),
            ("0s", Some(0)),
            ("5", None),
            ("5 s", None),
            ("s", None),
            ("", None),
            ("1.5h", None),
            ("-5s", None),
        ] {
            assert_eq!(duration(text), millis.map(Duration::from_millis), "{text}");
        }
    }
}

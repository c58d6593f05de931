//! Instants as Teleport's SQLite backend stores them, and back.
//!
//! The backend hands times to its driver, which writes TEXT in UTC: `YYYY-MM-DD HH:MM:SS[.fraction]+00:00`, up to nine
//! digits of fraction, trailing zeros dropped, the dot dropped with the last of them. Teleport compares these texts as
//! texts, so a writer must use exactly this form: [`format`] does. [`parse`] also takes the other forms that the driver
//! reads (no fraction or seconds, `T`, `Z`, no zone, another zone, whole numbers), since older files hold what older
//! writers left. Instants are nanoseconds since the Unix epoch. Pure: no clock.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;

const SECOND: i128 = 1_000_000_000;

/// The last instant that four digits of year can say; anything later is stored as this.
pub const LAST: i128 = 253_402_207_200 * SECOND;

/// The first instant with a year of four digits; anything earlier is stored as this.
pub const FIRST: i128 = -62_167_219_200 * SECOND;

/// The driver's text form of an instant in nanoseconds since the Unix epoch. Instants outside of the years 0000 to 9999 are
/// moved to the nearest end of them.
pub fn format(nanos: i128) -> String {
    let (date, fraction) = civil(nanos);
    let mut text = format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}",
        date.year(),
        date.month(),
        date.day(),
        date.hour(),
        date.minute(),
        date.second()
    );
    if fraction > 0 {
        text.push_str(format!(".{fraction:09}").trim_end_matches('0'));
    }
    text.push_str("+00:00");
    text
}

/// An instant in a form of fixed width, whose byte order is the order of time: `YYYY-MM-DDTHH:MM:SS.nnnnnnnnnZ`.
pub fn fixed(nanos: i128) -> String {
    let (date, fraction) = civil(nanos);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{fraction:09}Z",
        date.year(),
        date.month(),
        date.day(),
        date.hour(),
        date.minute(),
        date.second()
    )
}

fn civil(nanos: i128) -> (DateTime, i128) {
    let nanos = nanos.clamp(FIRST, LAST);
    let whole =
        Timestamp::from_nanosecond(nanos.div_euclid(SECOND) * SECOND).expect("the bounds lie within jiff's range");
    (Offset::UTC.to_datetime(whole), nanos.rem_euclid(SECOND))
}

/// Reads a time stored as TEXT; `None` if it is in no form that the driver could have written or would read.
pub fn parse(text: &[u8]) -> Option<i128> {
    let text = std::str::from_utf8(text).ok()?;
    let (date, rest) = split(text, 10)?;
    let (year, month, day) = (number(date, 0, 4)?, number(date, 5, 2)?, number(date, 8, 2)?);
    if at(date, 4)? != b'-' || at(date, 7)? != b'-' {
        return None;
    }
    let mut clock = [0i128; 4]; // hour, minute, second, nanosecond
    let mut rest = rest;
    if let Some(after) = rest.strip_prefix([' ', 'T']) {
        rest = time_of_day(after, &mut clock)?;
    }
    let offset = zone(rest)?;
    let midnight = DateTime::new(i16::try_from(year).ok()?, small(month)?, small(day)?, 0, 0, 0, 0).ok()?;
    let midnight = Offset::UTC.to_timestamp(midnight).ok()?.as_nanosecond();
    let [hour, minute, second, nanos] = clock;
    // A leap second is read as the first moment of the next minute, as the driver's language does not know it at all.
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    Some(midnight + (hour * 3600 + minute * 60 + second - offset) * SECOND + nanos)
}

/// Reads a time stored as a whole number, as the driver does: seconds, or milliseconds when it is too large for that.
pub fn from_integer(value: i64) -> i128 {
    let value = i128::from(value);
    if value.abs() > 1_000_000_000_000 { value * 1_000_000 } else { value * SECOND }
}

/// `HH:MM[:SS[.fraction]]`; gives what follows it.
fn time_of_day<'a>(text: &'a str, clock: &mut [i128; 4]) -> Option<&'a str> {
    clock[0] = number(text, 0, 2)?;
    if at(text, 2)? != b':' {
        return None;
    }
    clock[1] = number(text, 3, 2)?;
    let (_, rest) = split(text, 5)?;
    let Some(seconds) = rest.strip_prefix(':') else { return Some(rest) };
    clock[2] = number(seconds, 0, 2)?;
    let (_, rest) = split(seconds, 2)?;
    let Some(fraction) = rest.strip_prefix('.') else { return Some(rest) };
    let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 || digits > 9 {
        return None;
    }
    let (fraction, rest) = split(fraction, digits)?;
    clock[3] = fraction.parse::<i128>().ok()? * 10i128.pow(u32::try_from(9 - digits).ok()?);
    Some(rest)
}

/// Seconds east of UTC; no zone means UTC.
fn zone(text: &str) -> Option<i128> {
    let sign = match text.as_bytes().first() {
        None => return Some(0),
        Some(b'Z') if text.len() == 1 => return Some(0),
        Some(b'+') => 1,
        Some(b'-') => -1,
        Some(_) => return None,
    };
    if text.len() != 6 || at(text, 3)? != b':' {
        return None;
    }
    Some(sign * (number(text, 1, 2)? * 3600 + number(text, 4, 2)? * 60))
}

fn split(text: &str, index: usize) -> Option<(&str, &str)> {
    text.split_at_checked(index)
}

fn at(text: &str, index: usize) -> Option<u8> {
    text.as_bytes().get(index).copied()
}

fn number(text: &str, from: usize, digits: usize) -> Option<i128> {
    let digits = text.get(from..from + digits)?;
    if digits.bytes().all(|digit| digit.is_ascii_digit()) { digits.parse().ok() } else { None }
}

fn small(value: i128) -> Option<i8> {
    i8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const T: i128 = 1_775_044_800 * SECOND;

    #[test]
    fn the_drivers_form_is_written_exactly() {
        for (nanos, text) in [
            (T, "2026-04-01 12:00:00+00:00"),
            (T + 630 * SECOND, "2026-04-01 12:10:30+00:00"),
            (T + 630 * SECOND + 120_000_000, "2026-04-01 12:10:30.12+00:00"),
            (T + 1, "2026-04-01 12:00:00.000000001+00:00"),
            (0, "1970-01-01 00:00:00+00:00"),
            (-1, "1969-12-31 23:59:59.999999999+00:00"),
            (LAST + 5, "9999-12-30 22:00:00+00:00"),
            (FIRST - 5, "0000-01-01 00:00:00+00:00"),
        ] {
            assert_eq!(format(nanos), text);
        }
    }

    #[test]
    fn every_form_that_the_driver_reads_is_read() {
        for (text, nanos) in [
            ("2026-04-01 12:00:00+00:00", T),
            ("2026-04-01T12:00:00Z", T),
            ("2026-04-01 12:00:00", T),
            ("2026-04-01 12:00", T),
            ("2026-04-01T12:00+00:00", T),
            ("2026-04-01 14:00:00.5+02:00", T + SECOND / 2),
            ("2026-04-01 07:30:00-04:30", T),
            ("2026-04-01", T - 12 * 3600 * SECOND),
        ] {
            assert_eq!(parse(text.as_bytes()), Some(nanos), "{text}");
        }
        for text in [
            "",
            "soon",
            "2026-04-01 12:00:00.",
            "2026-13-01",
            "2026-02-30",
            "2026-04-01 12:00:00+0000",
            "2026-04-01 25:00",
            "2026-04-01 12:00:00.1234567890",
            "+026-04-01",
            "2026-04-01 é2:00",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(parse(b"\xff\xfe"), None);
        assert_eq!(from_integer(1_775_044_800), T);
        assert_eq!(from_integer(1_775_044_800_000), T);
    }

    proptest! {
        #[test]
        fn format_and_parse_are_inverse(nanos in FIRST..LAST) {
            prop_assert_eq!(parse(format(nanos).as_bytes()), Some(nanos));
            prop_assert_eq!(parse(fixed(nanos).as_bytes()), Some(nanos));
        }

        #[test]
        fn the_fixed_form_has_the_order_of_time(a in FIRST..LAST, b in FIRST..LAST) {
            prop_assert_eq!(fixed(a).cmp(&fixed(b)), a.cmp(&b));
            prop_assert_eq!(fixed(a).len(), 30);
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            parse(&bytes);
        }
    }
}

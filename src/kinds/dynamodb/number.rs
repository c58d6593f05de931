//! One text for each number of DynamoDB, whose own texts differ: `1E+2`, `100` and `100.0` are one number.
//!
//! A number has up to 38 significant digits and lies between 1E-130 and 9.99…E+125, negative or not. Nothing is computed here
//! and no digit is lost: the text is taken apart and put together again, as plain decimal where that is no longer than the
//! digits are many, in scientific form otherwise. Pure.

/// LIMIT: significant digits of a number, set by DynamoDB.
const DIGITS: usize = 38;

/// The one text of a number; `None` if it is not one.
pub fn canonical(text: &str) -> Option<String> {
    let (negative, rest) = match text.as_bytes().first()? {
        b'-' => (true, text.get(1..)?),
        b'+' => (false, text.get(1..)?),
        _ => (false, text),
    };
    let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (rest, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.len() + fraction.len() == 0 || !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let all = format!("{whole}{fraction}");
    // The number is these digits, times ten to this power.
    let digits = all.trim_start_matches('0').trim_end_matches('0');
    if digits.is_empty() {
        return Some("0".to_owned());
    }
    let zeros = all.len() - all.trim_end_matches('0').len();
    let power = exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?.checked_add(i32::try_from(zeros).ok()?)?;
    if digits.len() > DIGITS {
        return None;
    }
    // How many digits stand before the point.
    let before = power.checked_add(i32::try_from(digits.len()).ok()?)?;
    let sign = if negative { "-" } else { "" };
    Some(format!("{sign}{}", written(digits, power, before)?))
}

fn written(digits: &str, power: i32, before: i32) -> Option<String> {
    let most = i32::try_from(DIGITS).ok()?;
    Some(match usize::try_from(before) {
        Ok(_) if power >= 0 && before <= most => format!("{digits}{}", "0".repeat(usize::try_from(power).ok()?)),
        Ok(before) if power < 0 && before > 0 => {
            let (whole, fraction) = digits.split_at_checked(before)?;
            format!("{whole}.{fraction}")
        }
        _ if power < 0 && before > -most => {
            format!("0.{}{digits}", "0".repeat(usize::try_from(-before).ok()?))
        }
        _ => {
            let (first, rest) = digits.split_at_checked(1)?;
            let point = if rest.is_empty() { "" } else { "." };
            format!("{first}{point}{rest}E{}", before - 1)
        }
    })
}

/// The whole seconds that a number is, rounded up; the ends of what can be written down where it is beyond them.
pub fn seconds(text: &str) -> Option<i64> {
    let text = canonical(text)?;
    let (negative, plain) = text.strip_prefix('-').map_or((false, text.as_str()), |rest| (true, rest));
    if let Some((_, power)) = plain.split_once('E') {
        return Some(match (power.starts_with('-'), negative) {
            (true, false) => 1,
            (true, true) => 0,
            (false, false) => i64::MAX,
            (false, true) => i64::MIN,
        });
    }
    let (whole, fraction) = plain.split_once('.').unwrap_or((plain, ""));
    let whole = whole.parse::<i64>().unwrap_or(i64::MAX);
    // Towards the future: a negative number loses its fraction.
    Some(match negative {
        true => whole.checked_neg()?,
        false => whole.saturating_add(i64::from(!fraction.is_empty())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_number_has_one_text() {
        let most = "99999999999999999999999999999999999999";
        for (texts, wanted) in [
            (&["0", "-0", "0.000", "0E+9", "000"][..], "0"),
            (&["100", "1E2", "1e+2", "100.0", "+100", "0100", "10E1", "0.1E3"], "100"),
            (&["-1.5", "-15E-1", "-1.50"], "-1.5"),
            (&["0.001", "1E-3", ".001"], "0.001"),
            (&["1E+125", "10E124"], "1E125"),
            (&["-1E-130", "-0.1E-129"], "-1E-130"),
            (&[most], most),
            (&["9.9999999999999999999999999999999999999E+125"], "9.9999999999999999999999999999999999999E125"),
            (&["3.1415926535897932384626433832795028841"], "3.1415926535897932384626433832795028841"),
        ] {
            for text in texts {
                assert_eq!(canonical(text).as_deref(), Some(wanted), "{text}");
            }
        }
        let long = format!("1{}", "0".repeat(125));
        assert_eq!(canonical(&long).as_deref(), Some("1E125"));
    }

    #[test]
    fn what_is_no_number_is_refused() {
        let long = "1".repeat(39);
        for text in ["", "-", "+", "e", "1e", "1.2.3", "NaN", "1_0", "1E99999999999", "0x1", " 1", "é", &long] {
            assert_eq!(canonical(text), None, "{text}");
        }
    }

    #[test]
    fn an_instant_between_two_seconds_is_rounded_up() {
        for (text, wanted) in [
            ("1775045430", 1_775_045_430),
            ("1775045430.001", 1_775_045_431),
            ("-1.5", -1),
            ("1E125", i64::MAX),
            ("-1E125", i64::MIN),
            ("1E-130", 1),
            ("0.5", 1),
            ("99999999999999999999999", i64::MAX),
        ] {
            assert_eq!(seconds(text), Some(wanted), "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_text_is_a_fixed_point_and_keeps_every_digit(
            digits in "[1-9][0-9]{0,36}[1-9]", power in -120i32..80, negative in any::<bool>()
        ) {
            let sign = if negative { "-" } else { "" };
            let text = canonical(&format!("{sign}{digits}E{power}")).unwrap();
            prop_assert_eq!(canonical(&text).unwrap(), text.clone());
            let kept: String = text.split('E').next().unwrap().chars().filter(char::is_ascii_digit).collect();
            prop_assert_eq!(kept.trim_start_matches('0').trim_end_matches('0'), digits.trim_end_matches('0'));
        }

        #[test]
        fn any_text_is_survived(text in "\\PC{0,20}") {
            drop(canonical(&text));
            assert!(seconds(&text).is_none() || canonical(&text).is_some());
        }
    }
}
